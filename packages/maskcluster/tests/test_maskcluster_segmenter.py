"""The segmenter against its equations; sizes, photographs in batches, labels class by class."""

import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from maskcluster.masks.photo_files import Photo
from maskcluster.model.pixelclip import PixelCLIP
from maskcluster.segmenting import squares
from maskcluster.segmenting.segmenter import PixelCLIPSegmenter
from maskcluster.segmenting.squares import best_class, to_square

HERE = Path(__file__).parent
restated = SimpleNamespace(**runpy.run_path(str(HERE / "restated_pixelclip.py")))


def tiny(kind: str = "vit", **options: Any) -> PixelCLIP:
    trainable: Any = "attention" if kind == "vit" else "all"
    return PixelCLIP(restated.tiny_clip(kind), None, trainable=trainable, **options).eval()


def bank(rows: int = 5) -> Tensor:
    return F.normalize(torch.randn(rows, 20, generator=torch.Generator().manual_seed(3)), dim=1)


def telling(segmenter: PixelCLIPSegmenter, shot: Photo) -> Tensor:
    """(5, D) unit rows in which places of a photograph differ."""
    places = segmenter.features(segmenter.squares([shot]))[0].flatten(1).mT  # (N, D)
    return F.normalize(places[:: len(places) // 4][:5] - places.mean(dim=0), dim=1)


def photo(height: int = 50, width: int = 70, *, seed: int = 0) -> Photo:
    drawn: Photo = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return np.asarray(Image.fromarray(drawn[::10, ::10]).resize((width, height)))


def plain_scores(
    model: PixelCLIP, image: Tensor, rows: Tensor, grid: int = 0, last_block: str = "pixelclip"
) -> Tensor:
    """(K, h, w) cosines, place by place, from the restated towers."""
    colours = (image - model.mean) / model.std
    features = restated.plain_features(model.clip.visual, colours[None], last_block=last_block)
    if grid:
        features = F.interpolate(features, (grid, grid), mode="bilinear", align_corners=False)
    features = features[0].detach()  # (D, h, w)
    scores = torch.empty(len(rows), *features.shape[1:])
    for y in range(features.shape[1]):
        for x in range(features.shape[2]):
            at = features[:, y, x]
            scores[:, y, x] = rows @ at / at.norm()
    return scores


@pytest.mark.parametrize(("kind", "height", "width"), [("vit", 40, 24), ("convnext", 64, 96)])
@pytest.mark.parametrize("grid", [0, 7])
def test_scores_are_cosines_of_the_towers_features(
    kind: str, height: int, width: int, grid: int
) -> None:
    model = tiny(kind)
    image = torch.rand(3, height, width)
    found = PixelCLIPSegmenter(model, grid=grid, precision="float32").segment(image, bank())
    want = plain_scores(model, image, bank(), grid)
    assert found.shape == want.shape and found.dtype == torch.float32
    torch.testing.assert_close(found, want, rtol=0, atol=2e-5)


def test_the_last_block_of_the_model_is_used() -> None:
    image = torch.rand(3, 32, 32)
    for last_block in ("pixelclip", "maskclip", "none"):
        model = tiny(last_block=last_block)
        found = PixelCLIPSegmenter(model, precision="float32").segment(image, bank())
        want = plain_scores(model, image, bank(), last_block=last_block)
        torch.testing.assert_close(found, want, rtol=0, atol=2e-5)


@pytest.mark.parametrize(("height", "width", "seen"), [(35, 44, (32, 48)), (3, 17, (8, 16))])
def test_sides_go_to_the_nearest_multiple_of_a_patch(
    height: int, width: int, seen: tuple[int, int]
) -> None:
    model = tiny()
    segmenter = PixelCLIPSegmenter(model, precision="float32")
    image = torch.rand(3, height, width)
    near = F.interpolate(image[None], seen, mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(segmenter.segment(image, bank()), segmenter.segment(near, bank()))


def test_an_input_side_squashes_to_a_square() -> None:
    segmenter = PixelCLIPSegmenter(tiny(), image_px=48, precision="float32")
    image = torch.rand(3, 40, 24)
    square = F.interpolate(image[None], (48, 48), mode="bilinear", align_corners=False)[0]
    plain = PixelCLIPSegmenter(segmenter.model, precision="float32")
    torch.testing.assert_close(segmenter.segment(image, bank()), plain.segment(square, bank()))
    assert segmenter.square_px == 48 and plain.square_px == 160
    assert PixelCLIPSegmenter(tiny("convnext")).square_px == 640


def test_labels_of_photographs_are_the_published_path() -> None:
    model = tiny()
    segmenter = PixelCLIPSegmenter(model, precision="float32")
    shot = photo(90, 50)
    small = Image.fromarray(shot).resize((640, 1152), Image.Resampling.BILINEAR)
    planes = torch.from_numpy(np.array(small)).permute(2, 0, 1).float() / 255
    square = F.interpolate(planes[None], (160, 160), mode="bilinear", align_corners=False)[0]
    rows = telling(segmenter, shot)
    scores = plain_scores(model, square, rows, 64)
    large = F.interpolate(scores[None], (90, 50), mode="bilinear", align_corners=False)[0]
    found = segmenter.segment_photo(shot, rows)
    assert found.dtype == torch.int32 and found.shape == (90, 50)
    best = large.amax(dim=0)
    chosen = large.gather(0, found[None].long())[0]
    assert float((best - chosen).max()) < 1e-5  # the same class, or one that ties
    assert int(found.min()) < int(found.max())


def test_photographs_are_labelled_alike_in_any_batch() -> None:
    segmenter = PixelCLIPSegmenter(tiny(), precision="float32")
    shots = [photo(40 + 9 * i, 60, seed=i) for i in range(5)]
    rows = telling(segmenter, shots[0])
    alone = [segmenter.segment_photo(shot, rows) for shot in shots]
    assert int(alone[1].min()) < int(alone[1].max())
    taken = 0

    def one_by_one() -> Any:
        nonlocal taken
        for shot in shots:
            taken += 1
            yield shot

    together = segmenter.segment_photos(one_by_one(), rows, batch=2)
    first = next(together)
    assert taken == 2
    for found, want in zip([first, *together], alone, strict=True):
        assert float((found != want).float().mean()) < 0.01  # rounding of another batch size


def test_names_make_their_own_bank() -> None:
    segmenter = PixelCLIPSegmenter(tiny(), precision="float32")
    rows = segmenter.encode_classes(["dog, puppy", "grass"])
    found = segmenter.segment_photo(photo(), ["dog, puppy", "grass"])
    assert torch.equal(found, segmenter.segment_photo(photo(), rows))


def test_a_photograph_is_resized_as_published_before_it_is_squashed() -> None:
    shot = photo(30, 200)
    limited = Image.fromarray(shot).resize((2560, 384), Image.Resampling.BILINEAR)
    planes = torch.from_numpy(np.array(limited)).permute(2, 0, 1).float() / 255
    want = F.interpolate(planes[None], (32, 32), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(to_square(shot, 32), want, rtol=0, atol=0)


def test_best_class_is_argmax_of_resized_scores_some_classes_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scores = torch.randn(11, 5, 6)
    scores[7] = scores[2]  # the lower wins
    want = F.interpolate(scores[None], (23, 31), mode="bilinear", align_corners=False)[0].argmax(0)
    for held in (1, 3 * 23 * 31, 1 << 24):
        monkeypatch.setattr(squares, "_HELD", held)
        assert torch.equal(best_class(scores, (23, 31)), want.int())
    assert not bool((want == 7).any())


def test_the_fingerprint_is_of_weights_activation_and_last_block() -> None:
    first = PixelCLIPSegmenter(tiny())
    assert first.fingerprint == PixelCLIPSegmenter(tiny()).fingerprint
    assert len(first.fingerprint) == 64
    assert PixelCLIPSegmenter(tiny(last_block="none")).fingerprint != first.fingerprint
    other = tiny()
    with torch.no_grad():
        next(other.clip.parameters()).view(-1)[0] += 1e-6
    assert PixelCLIPSegmenter(other).fingerprint != first.fingerprint


def test_bfloat16_is_near_float32_and_tf32_leaves_no_trace() -> None:
    model, image = tiny(), torch.rand(3, 32, 32)
    before = torch.get_float32_matmul_precision()
    exact = PixelCLIPSegmenter(model, precision="float32").segment(image, bank())
    rounded = PixelCLIPSegmenter(model, precision="bfloat16").segment(image, bank())
    PixelCLIPSegmenter(model, precision="tf32").segment(image, bank())
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    torch.testing.assert_close(rounded, exact, rtol=0, atol=0.05)
    assert torch.get_float32_matmul_precision() == before


def test_what_cannot_be_is_refused() -> None:
    model = tiny()
    segmenter = PixelCLIPSegmenter(model)
    with pytest.raises(ValueError, match=r"bank must be \(K, 20\)"):
        segmenter.segment(torch.rand(3, 32, 32), torch.rand(4, 19))
    with pytest.raises(ValueError, match=r"image must be \(3, H, W\)"):
        segmenter.segment(torch.rand(1, 32, 32), bank())
    with pytest.raises(ValueError, match="multiple of 8, got 30"):
        PixelCLIPSegmenter(model, image_px=30)
    with pytest.raises(ValueError, match="grid must be >= 0"):
        PixelCLIPSegmenter(model, grid=-1)
    with pytest.raises(ValueError, match="precision must be"):
        PixelCLIPSegmenter(model, precision="half")  # type: ignore[arg-type]  # on purpose
    with pytest.raises(ValueError, match=r"\(H, W, 3\) uint8"):
        segmenter.segment_photo(np.zeros((4, 4), np.uint8), bank())
    with pytest.raises(ValueError, match="batch >= 1"):
        list(segmenter.segment_photos([photo()], bank(), batch=0))
    model.train()
    with pytest.raises(ValueError, match="training mode"):
        segmenter.segment(torch.rand(3, 32, 32), bank())
