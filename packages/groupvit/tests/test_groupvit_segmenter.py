"""The decoder of the release, restated, on a small random model."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from groupvit import GroupViT, GroupViTSegmenter, ModelConfig
from groupvit.data.augment import normalise
from groupvit.segmenting import segmenter as segmenter_module


def bank(classes: int) -> Tensor:
    random = torch.Generator().manual_seed(3)
    return F.normalize(torch.randn(classes, 16, generator=random), dim=-1)


def exact(model: GroupViT) -> GroupViTSegmenter:
    return GroupViTSegmenter(model, precision="float32")


def blots(size: tuple[int, int], seed: int) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return F.interpolate(torch.rand(1, 3, 4, 4, generator=random).round(), size)[0]


def random_model(config: ModelConfig, seed: int) -> GroupViT:
    """As `tiny_model`, of another seed; with 2 and 5 the blots 0 and 1 get several labels."""
    torch.manual_seed(seed)
    model = GroupViT(config).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if not name.endswith("bias"):
                value.add_(0.3 * torch.randn_like(value))
        model.logit_scale.fill_(2.0)
    return model


def varied_image(model: GroupViT, size: tuple[int, int]) -> Tensor:
    """The first of some images of blots (3, H, W) in which more than one group owns pixels."""
    for seed in range(100):
        image = blots(size, seed)
        groups, _ = exact(model).groups(image, bank(1))
        if bool((groups != groups[0, 0]).any()):
            return image
    raise AssertionError("one group owns every image")


@torch.no_grad()
def restated(
    model: GroupViT, image: Tensor, text: Tensor, background: float | None = None
) -> Tensor:
    """(K, H, W) scores, pixel by pixel, as section 5.3 of the specification says them."""
    _, height, width = image.shape
    seen = model.vision(normalise(image)[None])
    first, second = seen.assignments[0][0], seen.assignments[1][0]  # (64, N), (8, N')
    chain = first.T @ second.T  # (N, G)
    maps = chain.T.reshape(1, -1, *seen.grid)
    upsampled = F.interpolate(maps, (height, width), mode="bilinear", align_corners=False)[0]
    project = model.image_projector
    f = torch.stack([F.normalize(project(g[None]), dim=-1)[0] for g in seen.groups[0]])  # (G, D)
    a = F.normalize(project(seen.pooled), dim=-1)[0]  # (D,)
    s = min(float(model.logit_scale.exp()), 100.0)
    z = s * f @ text.T  # (G, K)
    plain = z.softmax(dim=1)
    best = (s * text @ a).softmax(dim=0).argsort(descending=True)[:5]
    gated = torch.full_like(z, float("-inf"))
    gated[:, best] = z[:, best]
    table = gated.softmax(dim=1) * plain  # (G, K)
    threshold = min(background or 0.0, float(table.max()))
    channels = len(text) + (background is not None)
    scores = torch.empty(channels, height, width)
    for row in range(height):
        for column in range(width):
            pixel = table[int(upsampled[:, row, column].argmax())]  # (K,)
            if background is not None:
                is_background = float(max(pixel) < threshold)
                pixel = torch.cat([torch.tensor([is_background]), pixel])
            scores[:, row, column] = pixel
    return scores


def restated_labels(
    model: GroupViT,
    image: Tensor,
    text: Tensor,
    background: float | None,
    *,
    window: int,
    stride: int,
    short: int,
    long: int,
) -> Tensor:
    """(H, W) labels as section 5.2 says them: every channel at every pixel of every window."""
    height, width = image.shape[1:]
    scale = min(long / max(height, width), short / min(height, width))
    size = int(height * scale + 0.5), int(width * scale + 0.5)
    small = F.interpolate(image[None], size, mode="bilinear", align_corners=False)[0]
    total, count = torch.zeros(len(text) + (background is not None), *size), torch.zeros(size)
    for i in range(max(size[0] - window + stride - 1, 0) // stride + 1):
        for j in range(max(size[1] - window + stride - 1, 0) // stride + 1):
            bottom, right = min(i * stride + window, size[0]), min(j * stride + window, size[1])
            top, left = max(bottom - window, 0), max(right - window, 0)
            crop = small[:, top:bottom, left:right]
            total[:, top:bottom, left:right] += restated(model, crop, text, background)
            count[top:bottom, left:right] += 1
    full = (total / count)[None]
    full = F.interpolate(full, (height, width), mode="bilinear", align_corners=False)[0]
    return full.softmax(dim=0).argmax(dim=0)


@pytest.mark.parametrize("classes", [1, 4, 5, 9])
@pytest.mark.parametrize("size", [(32, 32), (40, 53)])
def test_scores_are_what_the_release_decodes(
    tiny_model: GroupViT, classes: int, size: tuple[int, int]
) -> None:
    image, text = varied_image(tiny_model, size), bank(classes)
    got = exact(tiny_model).segment(image, text)
    assert got.shape == (classes, *size)
    torch.testing.assert_close(got, restated(tiny_model, image, text), rtol=1e-5, atol=1e-6)


PLAN = {"window": 24, "stride": 12, "short": 32, "long": 48}


@pytest.mark.parametrize("classes", [3, 40])
@pytest.mark.parametrize("background", [None, 0.1, 0.3])
@pytest.mark.parametrize("size", [(41, 50), (90, 30), (20, 16)], ids=str)
@pytest.mark.parametrize("seed", [2, 5])
def test_labels_are_those_of_the_plain_form(
    tiny_config: ModelConfig,
    classes: int,
    background: float | None,
    size: tuple[int, int],
    seed: int,
) -> None:
    model = random_model(tiny_config, seed)
    image, text = blots(size, 0), bank(classes)
    want = restated_labels(model, image, text, background, **PLAN)
    assert torch.equal(label(model, image, text, background).long(), want)


def label(
    model: GroupViT,
    image: Tensor | npt.NDArray[np.uint8],
    text: Tensor,
    background: float | None,
) -> Tensor:
    options = {f"{name}_px": value for name, value in PLAN.items()}
    labels: Tensor = exact(model).label(image, text, background=background, **options)
    return labels


def test_thresholds_of_the_test_above_change_something(tiny_config: ModelConfig) -> None:
    shares, kinds = [], []
    for seed in (2, 5):
        model, image = random_model(tiny_config, seed), blots((41, 50), 0)
        plain, *others = (label(model, image, bank(40), t) for t in (None, 0.1, 0.3))
        kinds.append(len(set(plain.flatten().tolist())))
        shares.append([float((labels == 0).float().mean()) for labels in others])
        kept = others[1] > 0
        assert float((others[1][kept] == plain[kept] + 1).float().mean()) > 0.5
    low, high = torch.tensor(shares).mean(dim=0).tolist()
    assert max(kinds) > 1 and 0 < low < high < 1


def test_a_whole_picture_is_one_window(tiny_model: GroupViT) -> None:
    image, text = varied_image(tiny_model, (32, 40)), bank(40)
    segmenter = exact(tiny_model)
    got = segmenter.label(image, text, window_px=None, short_px=32, long_px=99)
    assert torch.equal(got.long(), segmenter.segment(image, text).argmax(dim=0))
    large = F.interpolate(image[None], (50, 70), mode="bilinear")[0]
    got = segmenter.label(large, text, window_px=None, short_px=32, long_px=99)
    plan = {"window": 99, "stride": 99, "short": 32, "long": 99}
    assert torch.equal(got.long(), restated_labels(tiny_model, large, text, None, **plan))


def test_pictures_in_a_batch_are_labelled_alike(
    tiny_model: GroupViT, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segmenter_module, "CROPS", 5)
    sizes = [(41, 50), (50, 41), (32, 32), (41, 50), (20, 16), (9, 90)]
    images, text = [blots(size, i) for i, size in enumerate(sizes)], bank(20)
    taken: list[int] = []

    def given() -> Iterator[Tensor]:
        for i, image in enumerate(images):
            taken.append(i)
            yield image

    plan = {"window_px": 24, "stride_px": 12, "short_px": 32, "long_px": 48}
    segmenter = exact(tiny_model)
    labels = segmenter.label_batch(given(), text, background=0.03, **plan)
    first = next(labels)
    assert len(taken) <= 3  # not all are held at once
    together = [first, *labels]
    for image, got in zip(images, together, strict=True):
        assert got.shape == image.shape[1:] and got.dtype == torch.int32
        assert torch.equal(got, segmenter.label(image, text, background=0.03, **plan))
    assert list(segmenter.label_batch([], text)) == []


def test_bytes_are_as_good_as_floats(tiny_model: GroupViT) -> None:
    image, text = blots((41, 50), 0), bank(9)
    want = label(tiny_model, image, text, None)
    whole = (image * 255).round().to(torch.uint8)
    assert torch.equal(label(tiny_model, whole, text, None), want)
    array = whole.permute(1, 2, 0).numpy()  # (H, W, 3)
    assert torch.equal(label(tiny_model, array, text, None), want)


def test_thin_and_tiny_pictures_are_labelled(tiny_model: GroupViT) -> None:
    segmenter, text = exact(tiny_model), bank(9)
    for size in ((1, 1), (1, 3000), (3000, 1)):
        labels = segmenter.label(torch.rand(3, *size), text, window_px=64, stride_px=32)
        assert labels.shape == size and 0 <= int(labels.min()) <= int(labels.max()) < 9


def test_group_maps_of_every_stage(tiny_model: GroupViT) -> None:
    image = varied_image(tiny_model, (40, 48))
    segmenter = exact(tiny_model)
    first, second = segmenter.group_maps(image, short_px=40)
    groups, _ = segmenter.groups(image, bank(1))
    assert torch.equal(second.long(), groups)
    with torch.inference_mode():
        soft = tiny_model.vision(normalise(image)[None]).assignments[0]
    soft = F.interpolate(soft.view(1, 5, 5, 6), (40, 48), mode="bilinear")[0]
    assert torch.equal(first.long(), soft.argmax(dim=0))
    assert bool((first != first[0, 0]).any())


def test_wrong_arguments_are_named(tiny_model: GroupViT) -> None:
    segmenter, image, text = exact(tiny_model), torch.rand(3, 32, 32), bank(4)
    with pytest.raises(ValueError, match=r"bank must be \(K, 16\) with K >= 1, got \(4, 8\)"):
        segmenter.segment(image, text[:, :8])
    with pytest.raises(ValueError, match=r"got \(0, 16\)"):
        segmenter.label(image, text[:0])
    with pytest.raises(ValueError, match=r"background must be in \[0, 1\], got 1.5"):
        segmenter.label(image, text, background=1.5)
    with pytest.raises(ValueError, match="image must be"):
        segmenter.label(image.permute(1, 2, 0), text)
    with pytest.raises(ValueError, match=r"got 'dog\.jpg'; open_photo reads files"):
        segmenter.label("dog.jpg", text)  # type: ignore[arg-type]  # on purpose
    found = segmenter.label(image, text.numpy())  # type: ignore[arg-type]  # as good
    assert torch.equal(found, segmenter.label(image, text))
    tiny_model.train()
    with pytest.raises(ValueError, match="in training mode; call model"):
        segmenter.label(image, text)
    with pytest.raises(ValueError, match="precision must be"):
        GroupViTSegmenter(tiny_model, precision="float16")  # type: ignore[arg-type]  # on purpose


def test_bfloat16_is_the_same_up_to_rounding(tiny_config: ModelConfig) -> None:
    model = random_model(tiny_config, 2)
    image, text = blots((41, 50), 1), bank(9)
    half = GroupViTSegmenter(model, precision="bfloat16")
    want, got = exact(model).segment(image, text), half.segment(image, text)
    assert got.dtype == torch.float32 and not torch.equal(got, want)
    assert float(((got - want).abs() < 0.05).float().mean()) > 0.9
    assert half.encode_text(["dog"]).dtype == torch.float32
