"""Counted operations against PyTorch's counter, and against the published architecture's."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from groupvit import GroupViT, ModelConfig, TextConfig, VisionConfig
from groupvit.flops import peak_tflops, step_flops, text_flops, vision_flops
from groupvit.model.text import TextTower
from groupvit.model.vision import VisionTower
from groupvit.texts import Texts

PUBLISHED = VisionConfig()
SMALL = VisionConfig(
    image_px=32, patch_px=8, width=32, heads=2, depths=(1, 0, 2, 1), group_tokens=(6, 5, 3),
    output_groups=(6, 4, 3),
)  # fmt: skip
CONFIGS = {
    "published": PUBLISHED,
    "small": SMALL,
    "without pre-assignment": replace(SMALL, pre_assign=False),
    "convolutional stem": replace(SMALL, stem="conv"),
}


@pytest.mark.parametrize(
    ("gpu", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989), ("NVIDIA H100 PCIe", 756), ("NVIDIA H200", 989),
        ("NVIDIA GH200 480GB", 989), ("NVIDIA A100-SXM4-80GB", 312), ("Tesla T4", 0),
    ],
)  # fmt: skip
def test_peaks_are_known_by_the_names_of_drivers(gpu: str, peak: float) -> None:
    assert peak_tflops(gpu) == peak


def counted(run: Callable[[], object]) -> FlopCounterMode:
    """What PyTorch's counter sees: products, convolutions and its attention; not our own ops."""
    counter = FlopCounterMode(display=False)
    with counter:
        run()
    return counter


def assignment(tokens: int, groups: int, width: int) -> int:
    """Logits and means of an assignment, inside our op: two products (G, C) x (C, N)."""
    return 2 * (2 * groups * tokens * width)


def assignments(config: VisionConfig) -> list[int]:
    lengths = [(config.image_px // config.patch_px) ** 2, *config.output_groups]
    pairs = zip(lengths, config.output_groups, strict=False)
    return [assignment(tokens, groups, config.width) for tokens, groups in pairs]


def one_to_a_row(count: int, length: int) -> Texts:
    """Texts of one length in rows without padding."""
    ids = torch.ones(count, length, dtype=torch.int64).index_fill(1, torch.tensor(length - 1), 99)
    return Texts.of(ids, row=1)


def see(config: VisionConfig) -> FlopCounterMode:
    tower = VisionTower(config).eval()
    image = torch.zeros(1, 3, config.image_px, config.image_px)
    with torch.no_grad():
        return counted(lambda: tower(image))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_operations_of_the_image_tower_are_those_counted(config: VisionConfig) -> None:
    seen = see(config).get_total_flops()
    assert vision_flops(config) == seen + sum(assignments(config))


@pytest.mark.parametrize("length", [1, 16, 24, 77])
def test_operations_of_the_text_tower_are_those_counted(length: int) -> None:
    tower, texts = TextTower(TextConfig()).eval(), one_to_a_row(1, length)
    with torch.no_grad():
        seen = counted(lambda: tower(texts.tokens, texts.positions, texts.owners))
    assert text_flops(TextConfig(), length) == seen.get_total_flops()


def test_parts_are_those_of_the_published_architecture() -> None:
    """Millions of operations an image; keys and values of an assignment are folded onto groups."""
    counts = see(PUBLISHED).get_flop_counts()

    def part(*names: str) -> float:
        return sum(sum(counts[f"VisionTower.{name}"].values()) for name in names) / 1e6

    def blocks(stage: int, depth: int) -> float:
        return part(*(f"stages.{stage}.blocks.{j}" for j in range(depth)))

    first, second = (count / 1e6 for count in assignments(PUBLISHED))
    found = {
        "patch embedding": part("patches"),
        "blocks of stage 0": blocks(0, 6),
        "grouping 0": part("stages.0.grouping") + first,
        "group projector": part("stages.1.group_projector"),
        "blocks of stage 1": blocks(1, 3),
        "grouping 1": part("stages.1.grouping") + second,
        "blocks of stage 2": blocks(2, 3),
    }
    width = 384**2
    saved = {  # keys and values of N tokens; instead, two more projections of G groups
        "grouping 0": 2 * 2 * (196 - 64) * width / 1e6,
        "grouping 1": 2 * 2 * (64 - 8) * width / 1e6,
    }
    original = {name: value + saved.get(name, 0) for name, value in found.items()}
    assert original == pytest.approx(
        {
            "patch embedding": 115.6,
            "blocks of stage 0": 6143.8,
            "grouping 0": 666.1,
            "group projector": 10.6,
            "blocks of stage 1": 788.3,
            "grouping 1": 126.6,
            "blocks of stage 2": 85.2,
        },
        abs=0.05,
    )
    assert (found["grouping 0"], found["grouping 1"]) == pytest.approx((588.2, 93.6), abs=0.1)
    projector = 2 * 4096 * (384 + 256) / 1e6
    assert sum(original.values()) + projector == pytest.approx(7941.5, abs=0.1)
    assert vision_flops(PUBLISHED) / 1e6 == pytest.approx(sum(found.values()), abs=1e-6)
    texts = {77: 1526.2 + 4.2, 32: 621, 24: 464, 16: 309}  # projector included
    projector = 2 * 4096 * (256 + 256) / 1e6
    got = {n: text_flops(TextConfig(), n) / 1e6 + projector for n in texts}
    assert got == pytest.approx(texts, abs=0.5)


@pytest.mark.parametrize("projector", ["mlp", "linear"])
def test_a_step_is_three_times_what_its_forward_pass_counts(projector: str) -> None:
    pairs, length = 3, 9
    config = ModelConfig(
        vision=SMALL, text=TextConfig(vocabulary=100, width=32, layers=2, heads=2), embed_dim=16,
        projector=projector, projector_hidden=48,  # type: ignore[arg-type]  # one of them
    )  # fmt: skip
    model = GroupViT(config).train()
    texts = one_to_a_row(pairs * 4, length)
    batch = Texts(texts.tokens, texts.positions, texts.owners, texts.ends, length, (pairs, 4))
    seen = counted(lambda: model(torch.randn(pairs, 3, 32, 32), batch)).get_total_flops()
    inside = pairs * sum(assignments(SMALL))
    similarities = 2 * pairs * (pairs + 3 * pairs) * 16  # caption and multi-label, once each
    assert step_flops(config, pairs, batch) == 3 * (seen + inside + similarities)


def test_a_step_of_texts_of_several_lengths_pays_for_their_tokens() -> None:
    ids = torch.ones(4, 9, dtype=torch.int64)
    for row, end in zip(ids, (8, 1, 4, 1), strict=True):
        row[end], row[end + 1 :] = 99, 0
    config = ModelConfig(vision=SMALL, text=TextConfig(width=32, layers=2, heads=2))
    alone = [step_flops(config, 0, Texts.of(row[None])) for row in ids]
    assert step_flops(config, 0, Texts.of(ids)) == sum(alone)
    assert alone[1] == alone[3] < alone[2] < alone[0]
