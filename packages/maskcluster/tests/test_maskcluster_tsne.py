"""The map of prompts and names: near stays near, the same each time, any number of rows."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from maskcluster.naming.tsne import draw_tsne, tsne


def bunches(count: int, *, seed: int = 0) -> Tensor:
    """(3 count, 16) rows about three directions."""
    random = torch.Generator().manual_seed(seed)
    centres = torch.eye(16)[:3].repeat_interleave(count, dim=0)
    return centres + 0.03 * torch.randn(3 * count, 16, generator=random)


def test_bunches_of_all_sets_stay_together() -> None:
    rows = bunches(8)
    places = tsne({"learnt": rows[::2], "names": rows[1::2]})
    assert {name: part.shape for name, part in places.items()} == {
        "learnt": (12, 2),
        "names": (12, 2),
    }
    learnt, names = places["learnt"], places["names"]
    nearest = np.square(learnt[:, None] - names[None]).sum(axis=2).argmin(axis=1)
    assert (nearest // 4 == np.arange(12) // 4).all()


def test_the_same_rows_give_the_same_map_and_lengths_do_not_count() -> None:
    sets = {"learnt": bunches(2), "names": bunches(2, seed=1)}
    first, again = tsne(sets), tsne(sets)
    longer = tsne({name: 4 * rows for name, rows in sets.items()})
    for name in sets:
        assert np.array_equal(first[name], again[name])
        np.testing.assert_allclose(first[name], longer[name], rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize(("learnt", "names"), [(1, 1), (1, 2), (2, 3), (5, 7)])
def test_few_rows_are_no_error(learnt: int, names: int) -> None:
    random = torch.Generator().manual_seed(0)
    sets = {
        "learnt": torch.randn(learnt, 4, generator=random),
        "names": torch.randn(names, 4, generator=random),
    }
    found = tsne(sets)
    assert all(np.isfinite(part).all() for part in found.values())
    assert len(np.unique(np.concatenate(list(found.values())), axis=0)) == learnt + names


def test_rows_that_are_all_alike_are_at_one_place() -> None:
    found = tsne({"learnt": torch.ones(4, 3), "names": 2 * torch.ones(2, 3)})
    assert not np.concatenate(list(found.values())).any()


def test_sets_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"with one D, got .*\(2, 3\).*\(2, 4\)"):
        tsne({"learnt": torch.ones(2, 3), "names": torch.ones(2, 4)})
    with pytest.raises(ValueError, match="at least two rows"):
        tsne({"learnt": torch.ones(1, 3), "names": torch.ones(0, 3)})


def test_the_plot_shows_all_sets(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    places = {
        name: random.normal(size=(n, 2)).astype(np.float32)
        for name, n in (("at the start", 6), ("learnt", 6), ("names", 9))
    }
    names = [f"class {n}" for n in range(9)]
    first = draw_tsne(tmp_path / "a.png", places, names, [0, 0, 1, 4, 8, 8])
    without = {name: places[name] for name in ("learnt", "names")}
    second = draw_tsne(tmp_path / "b.png", without, names, [0, 0, 1, 4, 8, 8])
    shown = [np.asarray(Image.open(path).convert("RGB")) for path in (first, second)]
    grey, red, blue = (0x9A, 0x9A, 0x9A), (0xD6, 0x27, 0x28), (0x1F, 0x77, 0xB4)
    for picture, wanted in zip(shown, ({"grey", "red", "blue"}, {"red", "blue"}), strict=True):
        colours = {"grey": grey, "red": red, "blue": blue}
        near = {
            name
            for name, colour in colours.items()
            if (np.abs(picture.astype(int) - colour).max(axis=2) < 40).sum() > 100
        }
        assert wanted <= near
    assert not np.array_equal(shown[0], shown[1])


def test_the_plot_refuses_names_without_places(tmp_path: Path) -> None:
    places = {"learnt": np.zeros((2, 2), np.float32), "names": np.zeros((3, 2), np.float32)}
    with pytest.raises(ValueError, match="3 names and 2 prompts have places, got 2 names and 2"):
        draw_tsne(tmp_path / "a.png", places, ["a", "b"], [0, 1])
    assert not list(tmp_path.iterdir())
