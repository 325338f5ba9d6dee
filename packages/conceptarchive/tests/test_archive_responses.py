from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from conceptarchive import Mentions, own_responses
from conceptarchive.responses import BLOCK, responses

MakeRows = Callable[[int, int, int], npt.NDArray[np.float32]]


def test_worked_example() -> None:
    images = np.array([[1, 0], [0.6, 0.8]], np.float16)
    features = np.array([[0, 1], [1, 0], [0.8, 0.6]], np.float32)
    mentions = Mentions(np.array([0, 1, 3]), np.array([2, 0, 1], np.uint32))
    own = own_responses(images, features, mentions)
    np.testing.assert_allclose(own, [0.8, 0.8, 0.6], atol=1e-3)


def test_a_response_depends_on_its_two_rows_only(unit_rows: MakeRows) -> None:
    images, features = unit_rows(50, 33, 0), unit_rows(20, 33, 1)
    rows = np.arange(2 * BLOCK) % 50
    concepts = np.arange(2 * BLOCK) % 20
    many = responses(images, features, rows, concepts)
    for at in (0, 1, BLOCK - 1, BLOCK, 2 * BLOCK - 1):
        alone = responses(images[rows[at]][None], features, np.array([0]), concepts[at : at + 1])
        assert alone[0] == many[at]
    np.testing.assert_allclose(many[:20], (images[:20] * features).sum(axis=1), atol=1e-6)


def test_nothing_mentioned(unit_rows: MakeRows) -> None:
    nobody = Mentions(np.zeros(4, np.int64), np.empty(0, np.uint32))
    assert own_responses(unit_rows(3, 8, 0), unit_rows(2, 8, 1), nobody).shape == (0,)
