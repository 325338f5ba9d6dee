"""Every parameter of the published model starts as the release starts it."""

import math
import re
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from groupvit import GroupViT, ModelConfig


@dataclass(frozen=True)
class Normal:
    """Normal of mean 0."""

    std: float

    def moments(self) -> tuple[float, float]:
        """Standard deviation and kurtosis."""
        return self.std, 3.0

    def bound(self, count: int) -> float:
        """What the largest of so many is below, and nearly reaches."""
        return self.std * math.sqrt(2 * math.log(count))


@dataclass(frozen=True)
class Uniform:
    """Uniform on both sides of 0, as far as 1 / sqrt(inputs): PyTorch's default of a layer."""

    inputs: int

    def moments(self) -> tuple[float, float]:
        return 1 / math.sqrt(3 * self.inputs), 1.8

    def bound(self, _: int) -> float:
        return 1 / math.sqrt(self.inputs)


@dataclass(frozen=True)
class Constant:
    value: float


ZERO, ONE = Constant(0.0), Constant(1.0)
LINEAR = Normal(0.02)
SCALE = Constant(math.log(1 / 0.07))
TEXT_OUT = Normal(256**-0.5 * 24**-0.5)  # 0.01276
NORMS = r"norm\w*|group_projector\.0"

TABLE: tuple[tuple[str, Normal | Uniform | Constant, int], ...] = (
    ("(multi_label_)?logit_scale", SCALE, 2),
    (r"vision\.patches\.positions", LINEAR, 1),
    (r"vision\.patches\.projection\.(weight|bias)", Uniform(3 * 16 * 16), 2),  # left as it is made
    (r"vision\.stages\.0\.group_token", LINEAR, 1),
    (r"vision\.stages\.1\.group_token", ZERO, 1),  # a projector feeds it
    (rf"(vision|text)\.(.*\.)?({NORMS})\.weight", ONE, 64),
    (rf"(vision|text)\.(.*\.)?({NORMS})\.bias", ZERO, 64),
    (r"vision\..*\.(qkv|query|key|value|out|fc1|fc2)\.weight", LINEAR, 78),
    (r"vision\..*\.(qkv|query|key|value|out|fc1|fc2)\.bias", ZERO, 78),
    (r"text\.token_embedding\.weight", LINEAR, 1),
    (r"text\.positions", Normal(0.01), 1),
    (r"text\.blocks\.\d+\.attention\.qkv\.weight", Normal(256**-0.5), 12),  # 0.0625
    (r"text\.blocks\.\d+\.attention\.out\.weight", TEXT_OUT, 12),
    (r"text\.blocks\.\d+\.attention\.(qkv|out)\.bias", ZERO, 24),
    (r"text\.blocks\.\d+\.mlp\.fc1\.weight", Normal(512**-0.5), 12),  # 0.0442
    (r"text\.blocks\.\d+\.mlp\.fc2\.weight", TEXT_OUT, 12),
    (r"text\.blocks\.\d+\.mlp\.fc1\.bias", Uniform(256), 12),
    (r"text\.blocks\.\d+\.mlp\.fc2\.bias", Uniform(1024), 12),
    (r"image_projector\.hidden\.(weight|bias)", Uniform(384), 2),  # 0.0295
    (r"text_projector\.hidden\.(weight|bias)", Uniform(256), 2),
    (r"\w+_projector\.out\.(weight|bias)", Uniform(4096), 4),  # 0.0090
    (r"\w+_projector\.norm\.weight", ONE, 2),
    (r"\w+_projector\.norm\.bias", ZERO, 2),
)
"""Names, what their values are drawn from, and how many tensors there are."""


@pytest.fixture(scope="module")
def published() -> GroupViT:
    torch.manual_seed(11)
    return GroupViT(ModelConfig())


def check(name: str, value: Tensor, want: Normal | Uniform | Constant) -> None:
    """Mean, deviation, kurtosis and range, each within 5 standard errors (4 x 10^-7 by chance)."""
    flat = value.detach().double().flatten()
    count = len(flat)
    if isinstance(want, Constant):
        assert bool((value == want.value).all()), name
        return
    std, kurtosis = want.moments()
    assert abs(float(flat.mean())) < 5 * std / count**0.5, name
    error = std * math.sqrt((kurtosis - 1) / (4 * count))
    assert float(flat.square().mean().sqrt()) == pytest.approx(std, abs=5 * error), name
    peak, bound = float(flat.abs().max()), want.bound(count)
    if isinstance(want, Uniform):
        assert peak <= bound * (1 + 1e-6), name
        assert peak > bound * (1 - 15 / count), name  # 3 x 10^-7 by chance
    else:
        assert 0.75 * bound < peak < 1.5 * bound, name
    if count > 10_000:
        moment = float((flat / std).pow(4).mean())
        assert moment == pytest.approx(kurtosis, abs=5 * (96 / count) ** 0.5), name


def test_every_parameter_is_drawn_from_its_distribution(published: GroupViT) -> None:
    matched = dict.fromkeys((pattern for pattern, *_ in TABLE), 0)
    for name, value in published.named_parameters():
        found = [row for row in TABLE if re.fullmatch(row[0], name)]
        assert len(found) == 1, f"{name}: {len(found)} rows of the table"
        pattern, want, _ = found[0]
        matched[pattern] += 1
        check(name, value, want)
    assert matched == {pattern: count for pattern, _, count in TABLE}
    assert sum(matched.values()) == 401


def test_tensors_are_drawn_one_by_one(published: GroupViT) -> None:
    """No two have the same beginning, and rows of one tensor are not repeated."""
    drawn = [p.detach().flatten()[:8].tolist() for p in published.parameters() if p.numel() > 8]
    heads = [tuple(head) for head in drawn if len(set(head)) > 1]
    assert len(heads) == len(set(heads)) > 100
    tokens = published.vision.stages[0].group_token
    assert isinstance(tokens, Tensor)
    distances = torch.pdist(tokens.detach()[0])
    assert float(distances.min()) > 0.4  # 0.02 sqrt(2 * 384) = 0.55


def test_the_seed_decides_everything(published: GroupViT) -> None:
    torch.manual_seed(11)
    again = GroupViT(ModelConfig()).state_dict()
    assert all(torch.equal(again[name], value) for name, value in published.state_dict().items())


def test_batch_norm_starts_neutral(published: GroupViT) -> None:
    buffers = {name: b for name, b in published.named_buffers() if "projector" in name}
    assert len(buffers) == 6 == len(list(published.named_buffers()))
    for name, value in buffers.items():
        assert bool((value == (1 if name.endswith("running_var") else 0)).all()), name


def test_parameters_of_every_part_are_as_many_as_published(published: GroupViT) -> None:
    counts = {
        "": 55_726_610,
        "vision": 28_837_136,
        "vision.patches.projection": 295_296,
        "vision.patches.norm": 768,
        "vision.stages.0": 14_246_656,
        "vision.stages.0.blocks": 10_646_784,
        "vision.stages.0.grouping": 3_575_296,
        "vision.stages.0.grouping.mix": 24_832,
        "vision.stages.0.grouping.pre_assign": 1_774_464,
        "vision.stages.0.grouping.assign": 591_360,
        "vision.stages.0.grouping.mlp_channels": 1_181_568,
        "vision.stages.1": 8_894_992,
        "vision.stages.1.blocks": 5_323_392,
        "vision.stages.1.group_projector": 14_792,
        "vision.stages.1.grouping": 3_553_736,
        "vision.stages.1.grouping.mix": 3_272,
        "vision.stages.2": 5_323_392,
        "text": 22_145_792,
        "text.token_embedding": 12_648_448,
        "image_projector": 2_633_984,
        "text_projector": 2_109_696,
    }
    found = {
        name: sum(p.numel() for p in published.get_submodule(name).parameters()) for name in counts
    }
    assert found == counts
