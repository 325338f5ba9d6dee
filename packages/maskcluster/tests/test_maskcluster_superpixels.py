import subprocess
import sys

import numpy as np
import pytest

from maskcluster.generators.protocol import MaskGenerator
from maskcluster.generators.superpixels import Felzenszwalb, Slic

GENERATORS: list[MaskGenerator] = [Slic(segments=12), Felzenszwalb(min_size=20)]


def two_halves(
    height: int = 60, width: int = 80
) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    photo = np.zeros((height, width, 3), np.uint8)
    photo[:, width // 2 :] = (250, 40, 40)
    return photo


@pytest.mark.parametrize("generator", GENERATORS)
def test_masks_tile_the_photograph_and_keep_to_its_edges(generator: MaskGenerator) -> None:
    masks = generator(two_halves())
    decoded = masks.decode()
    assert (decoded.sum(axis=0) == 1).all()
    left = decoded[:, :, :39].any(axis=(1, 2))
    right = decoded[:, :, 41:].any(axis=(1, 2))
    assert not (left & right).any()
    assert masks.source == generator.description["name"]


@pytest.mark.parametrize("generator", GENERATORS)
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 1), (3, 2)])
def test_tiny_photographs_have_masks(generator: MaskGenerator, size: tuple[int, int]) -> None:
    masks = generator(two_halves(*size))
    assert (masks.height, masks.width) == size
    assert (masks.decode().sum(axis=0) == 1).all()


@pytest.mark.parametrize("generator", [Slic(max_side=40), Felzenszwalb(max_side=40)])
def test_a_large_photograph_is_segmented_small_and_resized(generator: MaskGenerator) -> None:
    small, large = generator(two_halves(30, 40)), generator(two_halves(300, 400))
    assert len(small) == len(large)
    assert (large.decode().sum(axis=0) == 1).all()


def test_the_same_photograph_gives_the_same_masks() -> None:
    photo = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    for generator in GENERATORS:
        assert generator(photo).masks == generator(photo).masks


def test_about_as_many_segments_as_asked() -> None:
    photo = np.random.default_rng(0).integers(100, 120, (64, 64, 3), dtype=np.uint8)
    assert 8 <= len(Slic(segments=16, compactness=50)(photo)) <= 25


def test_descriptions_differ_with_options() -> None:
    assert Slic().description == Slic(segments=100).description
    assert Slic().description != Slic(segments=101).description
    assert isinstance(Slic(), MaskGenerator)


def test_options_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="segments"):
        Slic(segments=0)
    with pytest.raises(ValueError, match="scale"):
        Felzenszwalb(scale=0)


def test_superpixels_need_no_torchvision() -> None:
    code = (
        "import sys; sys.modules['torchvision'] = None; import maskcluster, numpy; "
        "print(len(maskcluster.Slic(segments=4)(numpy.zeros((8, 8, 3), 'uint8'))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, int(done.stdout or 0) >= 1) == (0, True), done.stderr
