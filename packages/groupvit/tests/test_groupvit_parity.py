"""The published GroupViT in evaluation against its restatement: images, texts, maps."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from groupvit import GroupViT, GroupViTSegmenter, ModelConfig, load_released, save_released
from groupvit.texts import Texts

HEADS = (6, 4)
CAPTIONS = 5

Randomise = Callable[[nn.Module], None]


@pytest.fixture(scope="module")
def model(randomise: Randomise) -> GroupViT:
    torch.manual_seed(0)
    model = GroupViT(ModelConfig()).eval()
    randomise(model)
    return model


@pytest.fixture(scope="module")
def file(model: GroupViT, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("released") / "model.pth"
    save_released(model, path)
    return path


@pytest.fixture(scope="module")
def weights(file: Path) -> dict[str, Tensor]:
    """The file's tensors in float64."""
    stored = torch.load(file, weights_only=True)["model"]
    return {name: t.double() if t.is_floating_point() else t for name, t in stored.items()}


def images_of(height: int, width: int, count: int = 2) -> Tensor:
    """(count, 3, height, width) blots in [0, 1]."""
    random = torch.Generator().manual_seed(height)
    coarse = torch.rand(count, 3, 7, 7, generator=random)
    fine = torch.rand(count, 3, height, width, generator=random)
    return (nn.functional.interpolate(coarse, (height, width)) * 3 + fine) / 4


def texts() -> Tensor:
    """(5, 77) ids; one text fills the context, one is empty."""
    ids = torch.randint(1, 49406, (CAPTIONS, 77), generator=torch.Generator().manual_seed(2))
    for row, end in zip(ids, (76, 1, 9, 40, 5), strict=True):
        row[end], row[end + 1 :] = 49407, 0
    return ids


def normalise(images: Tensor) -> Tensor:
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    return (images - mean[:, None, None] / 255) / (std[:, None, None] / 255)


def compare(got: Mapping[str, Tensor], want: Mapping[str, Tensor], tolerance: float) -> None:
    """Ours in float32 against the restatement in float64: the largest error, to the largest value.

    The figures are printed; `-s` shows them.
    """
    errors = {
        name: float((got[name].double() - want[name]).abs().max() / want[name].abs().max())
        for name in want
    }
    figures = ", ".join(f"{name} {value:.1e}" for name, value in errors.items())
    print(f"\nlargest error, relative to the largest value: {figures}")  # noqa: T201
    assert max(errors.values()) < tolerance


@torch.no_grad()
@pytest.mark.parametrize("size", [(224, 224), (448, 448), (448, 608), (230, 100)], ids=str)
def test_images_are_seen_as_restated(
    size: tuple[int, int], model: GroupViT, weights: dict[str, Tensor], restated: SimpleNamespace
) -> None:
    images = normalise(images_of(*size, count=4 if size == (224, 224) else 1))
    image, parts, seen = model.encode_image(images)
    patches, grid = model.vision.patches(images)
    want = restated.see(weights, images.double(), HEADS[0])
    assert seen.grid == grid == want.grid == (size[0] // 16, size[1] // 16)
    for ours, theirs in zip(seen.assignments, want.soft, strict=True):
        assert torch.equal(ours.argmax(dim=1), theirs.argmax(dim=1))
    owners = seen.assignments[0].argmax(dim=1).flatten().tolist()
    assert len(set(owners)) > 16  # many groups own patches

    def project(rows: Tensor) -> Tensor:
        projected: Tensor = restated.project(weights, "img_projector", rows)[0]
        return projected

    compare(
        {
            "patches": patches,
            "maps of stage 1": seen.assignments[0],
            "maps of stage 2": seen.assignments[1],
            "group tokens": seen.groups,
            "image": image,
            "groups": parts.flatten(0, 1),
        },
        {
            "patches": want.patches,
            "maps of stage 1": want.soft[0],
            "maps of stage 2": want.soft[1],
            "group tokens": want.groups,
            "image": project(want.pooled),
            "groups": project(want.groups.flatten(0, 1)),
        },
        1e-5,
    )


@torch.no_grad()
def test_texts_are_read_and_matched_as_restated(
    model: GroupViT, weights: dict[str, Tensor], restated: SimpleNamespace
) -> None:
    images, ids = normalise(images_of(224, 224)), texts()
    text = model.encode_text(Texts.of(ids))
    rows = nn.functional.normalize(model.encode_image(images)[0], dim=-1)
    logits = model.scale * rows @ nn.functional.normalize(text, dim=-1).mT

    words = restated.project(weights, "text_projector", restated.read(weights, ids, HEADS[1]))[0]
    pooled = restated.see(weights, images.double(), HEADS[0]).pooled
    seen = restated.unit(restated.project(weights, "img_projector", pooled)[0])
    similar = restated.scale(weights["logit_scale"]) * seen @ restated.unit(words).mT
    compare({"text": text, "logits": logits}, {"text": words, "logits": similar}, 1e-5)


@torch.no_grad()
@pytest.mark.parametrize("size", [(224, 224), (448, 608)], ids=str)
def test_maps_and_scores_of_groups_are_as_restated(
    size: tuple[int, int], model: GroupViT, weights: dict[str, Tensor], restated: SimpleNamespace
) -> None:
    (image,) = images_of(*size, count=1)
    bank = nn.functional.normalize(torch.randn(20, 256), dim=-1)
    groups, scores = GroupViTSegmenter(model, precision="float32").groups(image, bank)

    want = restated.see(weights, normalise(image)[None].double(), HEADS[0])
    (maps,) = restated.maps(want.soft, want.grid, size)  # (G, H, W)
    owner = maps.max(dim=0).indices
    margin = (maps.topk(2, dim=0).values * torch.tensor([1.0, -1.0])[:, None, None]).sum(dim=0)
    clear = margin > 1e-5
    assert torch.equal(groups[clear], owner[clear]) and float(clear.double().mean()) > 0.99
    assert len(set(owner.flatten().tolist())) > 1
    vector = restated.project(weights, "img_projector", want.pooled)[0][0]
    parts = restated.project(weights, "img_projector", want.groups[0])[0]
    scale = restated.scale(weights["logit_scale"])
    table = restated.class_table(vector, parts, bank.double(), scale)
    compare({"scores": scores}, {"scores": table}, 1e-4)


def test_the_file_read_back_is_the_model(model: GroupViT, file: Path) -> None:
    again = load_released(file)
    assert again.config == model.config
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
