from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from conceptarchive import Mentions, own_responses
from conceptarchive.curation.responses import responses

MakeRows = Callable[[int, int, int], npt.NDArray[np.float32]]


def test_worked_example() -> None:
    images = np.array([[1, 0], [0.6, 0.8]], np.float16)
    features = np.array([[0, 1], [1, 0], [0.8, 0.6]], np.float32)
    mentions = Mentions(np.array([0, 1, 3]), np.array([2, 0, 1], np.uint32))
    own = own_responses(images, features, mentions)
    assert own.dtype == np.float32
    np.testing.assert_allclose(own, [0.8, 0.8, 0.6], atol=1e-3)


@pytest.mark.parametrize("dim", [1, 7, 33, 512])
def test_close_to_float64(unit_rows: MakeRows, dim: int) -> None:
    images, features = unit_rows(40, dim, 0), unit_rows(20, dim, 1)
    offsets, concepts = np.arange(41) * 20, np.tile(np.arange(20), 40)
    got = responses(images, features, offsets, concepts)
    exact = images.astype(np.float64) @ features.astype(np.float64).T
    np.testing.assert_allclose(got.reshape(40, 20), exact, atol=1e-6)


def test_a_response_depends_on_its_two_rows_only(
    unit_rows: MakeRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, features = unit_rows(50, 33, 0), unit_rows(20, 33, 1)
    mentions = Mentions(np.arange(51) * 3, np.arange(150, dtype=np.uint32) % 20)
    many = own_responses(images, features, mentions)
    monkeypatch.setattr("conceptarchive.curation.responses.BLOCK", 7)
    monkeypatch.setattr("numba.config.NUMBA_NUM_THREADS", 3)
    assert np.array_equal(own_responses(images, features, mentions), many)
    for row in (0, 13, 49):
        alone = responses(images[row : row + 1], features, np.array([0, 3]), mentions[row])
        assert np.array_equal(alone, many[3 * row : 3 * row + 3])


def test_nothing_mentioned(unit_rows: MakeRows) -> None:
    nobody = Mentions(np.zeros(4, np.int64), np.empty(0, np.uint32))
    assert own_responses(unit_rows(3, 8, 0), unit_rows(2, 8, 1), nobody).shape == (0,)
    none = Mentions(np.zeros(1, np.int64), np.empty(0, np.uint32))
    assert own_responses(unit_rows(0, 8, 0), unit_rows(2, 8, 1), none).shape == (0,)


def test_what_does_not_fit_is_refused(unit_rows: MakeRows) -> None:
    images, features = unit_rows(3, 8, 0), unit_rows(2, 8, 1)
    with pytest.raises(ValueError, match="of 3 captions"):
        own_responses(images, features, Mentions(np.zeros(2, np.int64), np.empty(0, np.uint32)))
    with pytest.raises(ValueError, match=r"\[0, 2\), got 1 to 2"):
        own_responses(images, features, Mentions(np.arange(4), np.array([1, 1, 2], np.uint32)))
    with pytest.raises(ValueError, match="offsets must be 4"):
        responses(images, features, np.array([0, 2, 1, 3]), np.zeros(3, np.int64))
    with pytest.raises(ValueError, match="8 wide, got 7"):
        responses(images[:, :7], features, np.arange(4), np.zeros(3, np.int64))
    images[1, 3] = np.nan
    with pytest.raises(ValueError, match="image 1 of 3 responds with nan to concept 1"):
        responses(images, features, np.arange(4), np.array([0, 1, 0]))
