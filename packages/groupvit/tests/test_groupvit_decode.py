"""The table of a window, and the merge of windows."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from groupvit.segmenting import decode
from groupvit.segmenting.decode import class_scores, merge_labels, with_background
from groupvit.segmenting.windows import Cut, Window, place_windows


def bank(classes: int, seed: int = 3) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(classes, 16, generator=random), dim=-1)


def test_classes_outside_the_gate_score_nothing() -> None:
    text = bank(12)
    image, groups = torch.randn(2, 16), torch.randn(2, 3, 16)
    scores = class_scores(image, groups, text, torch.tensor(5.0))
    for row, whole in zip(scores, image, strict=True):
        best = (text @ whole).topk(5).indices
        outside = torch.ones(12, dtype=torch.bool).scatter(0, best, False)
        assert not row[:, outside].any()
        assert bool((row[:, best] > 0).all()) and bool((row <= 1).all())
    # the product is not normalised again: the rows sum to less than 1
    assert bool((scores.sum(dim=2) < 1).all())


def test_product_by_hand() -> None:
    axes = torch.eye(2)
    scores = class_scores(torch.tensor([[1.0, 0]]), axes[:1][None] * 7, axes, torch.tensor(1.0))
    p = 1 / (1 + torch.e**-1)
    torch.testing.assert_close(scores, torch.tensor([[[p**2, (1 - p) ** 2]]]))


def test_a_batch_is_its_crops() -> None:
    image, groups, text = torch.randn(4, 16), torch.randn(4, 3, 16), bank(9)
    scale = torch.tensor(20.0)
    together = class_scores(image, groups, text, scale)
    for i in range(4):
        alone = class_scores(image[i : i + 1], groups[i : i + 1], text, scale)
        torch.testing.assert_close(together[i], alone[0])


def test_the_lower_class_passes_the_gate() -> None:
    text = bank(1).expand(7, -1)  # all tie
    scores = class_scores(torch.randn(1, 16), torch.randn(1, 2, 16), text, torch.tensor(9.0))
    assert (scores[0, 0] > 0).tolist() == [True] * 5 + [False] * 2


def test_background_by_hand() -> None:
    table = torch.tensor([[[0.9, 0.0], [0.3, 0.4]], [[0.2, 0.0], [0.1, 0.3]]])  # (2, 2, 2)
    assert with_background(table, 0.5)[:, :, 0].tolist() == [[0, 1], [1, 0]]  # 0.5, then 0.3
    assert with_background(table, 0.95)[:, :, 0].tolist() == [[0, 1], [1, 0]]  # 0.9, then 0.3
    assert with_background(table, 0.3)[:, :, 0].tolist() == [[0, 0], [1, 0]]
    assert not with_background(table, 0.0)[:, :, 0].any()
    assert torch.equal(with_background(table, 0.5)[:, :, 1:], table)


@settings(deadline=None)
@given(st.floats(0, 1), st.integers(0, 99))
def test_some_group_is_always_foreground(threshold: float, seed: int) -> None:
    table = torch.rand(3, 4, 6, generator=torch.Generator().manual_seed(seed))
    background = with_background(table, threshold)[:, :, 0]  # (3, 4)
    assert bool((background.sum(dim=1) < 4).all())
    higher = with_background(table, min(threshold + 0.1, 1.0))[:, :, 0]
    assert bool((higher >= background).all())


def picture(size: tuple[int, int], full: tuple[int, int], window: int, stride: int) -> Cut:
    windows = tuple(place_windows(size, window, stride))
    return Cut(full, size, windows, torch.zeros(0))


def dense(groups: Tensor, table: Tensor, cut: Cut) -> Tensor:
    """(C, H, W) scores of all channels, pixel by pixel of every window."""
    total = torch.zeros(table.shape[2], *cut.size)
    count = torch.zeros(cut.size)
    for window, group, rows in zip(cut.windows, groups, table, strict=True):
        for y in range(window.top, window.bottom):
            for x in range(window.left, window.right):
                total[:, y, x] += rows[group[y - window.top, x - window.left]]
                count[y, x] += 1
    return F.interpolate((total / count)[None], cut.full_size, mode="bilinear")[0]


@pytest.mark.parametrize("full", [(14, 19), (14, 40), (31, 11), (5, 3)], ids=str)
@pytest.mark.parametrize("windows", [(9, 4), (9, 9), (6, 2), (50, 20)], ids=str)
def test_merged_labels_are_those_of_all_channels(
    full: tuple[int, int], windows: tuple[int, int]
) -> None:
    random = torch.Generator().manual_seed(2 * full[1] + windows[0])
    cut = picture((14, 19), full, *windows)
    n, side = len(cut.windows), min(windows[0], 14)
    groups = torch.randint(0, 3, (n, side, min(windows[0], 19)), generator=random).int()
    table = torch.rand(n, 3, 30, generator=random)
    for rows in table:  # 3 of 30 classes pass the gate of a window
        rows[:, torch.randperm(30, generator=random)[3:]] = 0
    want = dense(groups, table, cut)
    got = merge_labels(groups, table, cut)
    assert got.dtype == torch.int32 and got.shape == full
    best = want.max(dim=0)
    assert torch.equal(got.long(), best.indices)
    assert bool((got != got[0, 0]).any())


def test_nothing_scored_is_the_first_class() -> None:
    """In float32 the softmax of a far class is 0, and so may be the score of all of the gate."""
    cut = picture((6, 6), (8, 8), 6, 3)
    table = torch.zeros(1, 2, 9)
    table[0, 0, 4] = 0.5
    groups = torch.ones(1, 6, 6, dtype=torch.int32)
    assert not merge_labels(groups, table, cut).any()
    groups[0, :, :3] = 0
    labels = merge_labels(groups, table, cut)
    assert torch.equal(labels.long(), dense(groups, table, cut).argmax(dim=0))
    assert set(labels.flatten().tolist()) == {0, 4}


def test_large_pictures_are_labelled_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    cut = picture((14, 19), (33, 47), 9, 4)
    random = torch.Generator().manual_seed(0)
    groups = torch.randint(0, 3, (len(cut.windows), 9, 9), generator=random).int()
    table = torch.rand(len(cut.windows), 3, 4, generator=random)
    whole = merge_labels(groups, table, cut)
    monkeypatch.setattr(decode, "_CHUNK", 1)  # a row at a time
    assert torch.equal(merge_labels(groups, table, cut), whole)


def test_one_window_is_not_averaged() -> None:
    cut = Cut((2, 2), (2, 2), (Window(0, 0, 2, 2),), torch.zeros(0))
    table = torch.tensor([[[0.2, 0.1], [0.0, 0.7]]])
    groups = torch.tensor([[[0, 1], [1, 0]]], dtype=torch.int32)
    assert merge_labels(groups, table, cut).tolist() == [[0, 1], [1, 0]]
