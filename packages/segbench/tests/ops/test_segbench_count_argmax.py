"""Resize, argmax and counts without full-size scores: bit for bit what eager PyTorch gives."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from segbench import count_pairs
from segbench.ops.count_argmax import confusion_counts, count_argmax, is_within, resize_argmax
from segbench.ops.count_argmax.cpu import possible_classes, resize_argmax_cpu, taps
from segbench.ops.count_argmax.kernel import (
    CLASSES,
    PIXELS,
    count_argmax_triton,
    resize_argmax_triton,
)
from segbench.ops.count_argmax.reference import count_argmax_reference, resize_argmax_reference

Kind = Callable[[tuple[int, int, int]], Tensor]

SIZES = [  # h, w, H, W with H + W > 128
    (15, 20, 120, 160),  # an exact ratio
    (13, 17, 101, 211),  # none
    (28, 37, 97, 140),
    (60, 80, 64, 65),  # hardly larger
    (90, 70, 61, 71),  # smaller
    (60, 80, 1, 200),  # one row of pixels
    (1, 9, 80, 90),  # one row of places
    (9, 1, 80, 90),
    (20, 30, 20, 130),  # the same height
    (20, 130, 90, 130),  # the same width
    (60, 70, 60, 70),  # the same size
    (2, 2, 300, 3),  # more pixels in a cell than a vector has lanes
]


def labels_like(size: tuple[int, int], classes: int) -> Tensor:
    return torch.randint(-1, classes, size, dtype=torch.int32)


def bits(values: Tensor) -> Tensor:
    return values.view(torch.int32)


def test_worked_example() -> None:
    """Two places beside each other, four pixels: the right place weighs 0, 1/4, 3/4 and 1."""
    scores = torch.tensor([[[4.0, 0.0]], [[1.0, 3.0]], [[4.0, 0.0]]])  # (3, 1, 2)
    best, winner = resize_argmax(scores, (130, 4))
    want = torch.tensor([4.0, 3.0, 2.5, 3.0]).expand(130, 4)
    torch.testing.assert_close(best, want, rtol=2e-7, atol=0)  # ATen's bits in one thread
    assert winner.tolist() == [[0, 0, 1, 1]] * 130  # class 2 ties with class 0 everywhere
    labels = torch.tensor([0, 2, 1, -1], dtype=torch.int32).expand(130, 4)
    confusion, predicted = count_argmax(scores, labels, 3, want_labels=True)
    assert confusion.tolist() == [[130, 0, 0], [0, 130, 0], [130, 0, 0]]
    assert predicted is not None
    assert torch.equal(predicted, winner)
    assert count_argmax(scores, labels, 3)[1] is None


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_scores_and_labels_are_eager_ones_bit_for_bit(
    size: tuple[int, int, int, int], kind: Kind
) -> None:
    scores, full = kind((19, *size[:2])), size[2:]
    want_best, want_winner = resize_argmax_reference(scores, full)
    best, winner = resize_argmax(scores, full)
    assert torch.equal(bits(best), bits(want_best))
    assert torch.equal(winner, want_winner)
    labels = labels_like(full, 19)
    confusion, predicted = count_argmax(scores, labels, 19, want_labels=True)
    want, _ = count_argmax_reference(scores, labels, 19)
    assert torch.equal(confusion, want)
    assert predicted is not None
    assert torch.equal(predicted, want_winner)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_pruned_is_unpruned(size: tuple[int, int, int, int], kind: Kind) -> None:
    scores = kind((19, *size[:2])).numpy()
    for fused in (False, True):
        pruned = resize_argmax_cpu(scores, size[2:], fused=fused)
        whole = resize_argmax_cpu(scores, size[2:], prune=False, fused=fused)
        assert np.array_equal(pruned.best.view(np.int32), whole.best.view(np.int32))
        assert np.array_equal(pruned.winner, whole.winner)


@settings(deadline=None)  # the first call compiles
@given(
    classes=st.integers(1, 24),
    places=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    size=st.tuples(st.integers(1, 160), st.integers(1, 160)),
    name=st.sampled_from(["normal", "ulp_apart", "flat_ulp_apart", "tied"]),
    seed=st.integers(0, 9999),
)
def test_any_size_is_eager_bit_for_bit(
    draw: dict[str, Kind],
    classes: int,
    places: tuple[int, int],
    size: tuple[int, int],
    name: str,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    scores = draw[name]((classes, *places))
    want_best, want_winner = resize_argmax_reference(scores, size)
    best, winner = resize_argmax(scores, size)
    assert torch.equal(bits(best), bits(want_best))
    assert torch.equal(winner, want_winner)


@settings(deadline=None)  # the first call compiles
@given(
    classes=st.integers(1, 9),
    places=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    seed=st.integers(0, 9999),
)
def test_counts_and_map_agree(
    classes: int, places: tuple[int, int], size: tuple[int, int], seed: int
) -> None:
    torch.manual_seed(seed)
    labels = labels_like(size, classes)
    confusion, predicted = count_argmax(
        torch.randn(classes, *places), labels, classes, want_labels=True
    )
    assert predicted is not None
    assert int(confusion.sum()) == int((labels >= 0).sum())
    assert torch.equal(confusion, count_pairs(labels, predicted.long(), classes))


def test_a_winner_below_the_bound_by_a_rounding_error_is_kept() -> None:
    """Rounded, a score may win whose corners are all below the smallest corner of another class."""
    near = torch.tensor(123.4).view(torch.int32) + torch.randint(-1, 2, (40, 26, 34))
    scores, size = near.int().view(torch.float32), (300, 417)
    rows, columns = taps(26, size[0]), taps(34, size[1])
    corners = torch.stack(
        [scores[:, y][:, :, x] for y in (rows.low, rows.high) for x in (columns.low, columns.high)]
    )  # (4, C, H, W)
    whole = resize_argmax_cpu(scores.numpy(), size, prune=False, fused=False)
    winner = torch.from_numpy(whole.winner)
    peak = corners.amax(dim=0).gather(0, winner.long()[None])[0]  # (H, W) of the winner
    assert bool((peak < corners.amin(dim=0).amax(dim=0)).any())  # a bound without margin fails
    pruned = resize_argmax_cpu(scores.numpy(), size, fused=False)
    assert np.array_equal(pruned.winner, whole.winner)


def survivors(scores: Tensor) -> Tensor:
    """(h, w) number of classes that are compared in each cell."""
    classes, height, width = scores.shape
    rows = []
    for y in range(height):
        kept, counts = np.empty((width, classes), np.int32), np.empty(width, np.int32)
        lower = min(y + 1, height - 1)
        possible_classes(scores[:, y].numpy(), scores[:, lower].numpy(), True, kept, counts)
        assert all((np.diff(row[:n]) > 0).all() for row, n in zip(kept, counts, strict=True))
        rows.append(torch.from_numpy(counts))
    return torch.stack(rows)


def test_a_handful_of_classes_is_compared(draw: dict[str, Kind]) -> None:
    assert float(survivors(draw["smooth"]((171, 60, 80))).float().mean()) < 10
    assert bool((survivors(draw["equal"]((7, 5, 6))) == 7).all())
    lone = torch.zeros(5, 4, 4)
    lone[3] = 1.0
    assert bool((survivors(lone) == 1).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("size", [(101, 211), (40, 50)], ids=str)
def test_narrow_types_and_strides(dtype: torch.dtype, size: tuple[int, int]) -> None:
    scores = torch.randn(17, 13, 6).to(dtype).permute(2, 1, 0)  # (6, 13, 17), not contiguous
    want_best, want_winner = resize_argmax_reference(scores, size)
    best, winner = resize_argmax(scores, size)
    assert best.dtype == torch.float32
    assert torch.equal(best, want_best)
    assert torch.equal(winner, want_winner)


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64], ids=str
)
def test_labels_of_every_integer_type(dtype: torch.dtype) -> None:
    scores, low = torch.randn(21, 13, 17), 0 if dtype == torch.uint8 else -1
    labels = torch.randint(low, 21, (211, 101)).to(dtype).mT  # (101, 211), not contiguous
    want, _ = count_argmax_reference(scores, labels, 21)
    confusion, predicted = count_argmax(scores, labels, 21)
    assert predicted is None
    assert confusion.dtype == torch.int64
    assert torch.equal(confusion, want)


def test_all_ignored_counts_nothing() -> None:
    labels = torch.full((101, 211), -1, dtype=torch.int32)
    assert int(count_argmax(torch.randn(3, 13, 17), labels, 3)[0].sum()) == 0


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("classes", [2, 3, 4])
@pytest.mark.parametrize("count", [1, 2])
def test_eager_bits_for_any_number_of_threads(
    threads: Callable[[int], None], classes: int, count: int
) -> None:
    """ATen resizes three channels by another kernel in one thread."""
    threads(count)
    scores = torch.randn(classes, 5, 7)
    for size in ((2, 127), (90, 200), (480, 640)):
        want_best, want_winner = resize_argmax_reference(scores, size)
        best, winner = resize_argmax(scores, size)
        assert torch.equal(bits(best), bits(want_best))
        assert torch.equal(winner, want_winner)


def test_threads_do_not_matter(threads: Callable[[int], None], draw: dict[str, Kind]) -> None:
    scores, found = draw["smooth"]((21, 13, 17)), []
    for count in (1, 2, 5):
        threads(count)
        found.append(resize_argmax(scores, (101, 211)))
    for best, winner in found[1:]:
        assert torch.equal(best, found[0][0])
        assert torch.equal(winner, found[0][1])


def test_inference_mode_and_gradients_are_no_obstacle() -> None:
    scores = torch.randn(4, 13, 17, requires_grad=True)
    want = resize_argmax_reference(scores.detach(), (101, 211))
    with torch.inference_mode():
        assert torch.equal(resize_argmax(scores.clone(), (101, 211))[1], want[1])
    assert torch.equal(resize_argmax(scores, (101, 211))[1], want[1])


WITHOUT_FMA = """
import torch
from segbench.ops.count_argmax import resize_argmax
from segbench.ops.count_argmax.cpu import resize_argmax_cpu
from segbench.ops.count_argmax.reference import resize_argmax_reference
assert torch.backends.cpu.get_cpu_capability() == "DEFAULT"
scores = torch.randn(19, 13, 17)
want, got = resize_argmax_reference(scores, (101, 211)), resize_argmax(scores, (101, 211))
print(all(map(torch.equal, want, got)))
fused = resize_argmax_cpu(scores.numpy(), (101, 211), fused=True)
print(torch.equal(want[0], torch.from_numpy(fused.best)))
"""


@pytest.mark.slow
@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"), reason="x86-64 with FMA only"
)
def test_bits_are_eager_ones_without_fused_products_too() -> None:
    """PyTorch told to take its kernels for old processors rounds otherwise, and so do we."""
    environment = os.environ | {"ATEN_CPU_CAPABILITY": "default"}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_FMA],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.split() == ["True", "False"], done.stderr


def test_counts_worked_example() -> None:
    labels = torch.tensor([[0, 0, 1, -1], [1, 1, -1, 0]])
    predicted = torch.tensor([[0, 0, 2, 9], [1, 2, -7, 1]])
    assert confusion_counts(labels, predicted, 3).tolist() == [[2, 1, 0], [0, 1, 2], [0, 0, 0]]
    assert int(confusion_counts(labels[:0], predicted[:0], 3).sum()) == 0


@settings(deadline=None)  # the first call compiles
@given(classes=st.integers(1, 40), n=st.integers(0, 300), seed=st.integers(0, 9999))
def test_counts_are_those_of_bincount(classes: int, n: int, seed: int) -> None:
    torch.manual_seed(seed)
    labels = torch.randint(-1, classes, (n,)).repeat_interleave(3)  # runs
    predicted = torch.randint(0, classes, (3 * n,))
    kept = labels != -1
    keys = labels[kept] * classes + predicted[kept]
    want = keys.bincount(minlength=classes**2).view(classes, classes)
    assert torch.equal(count_pairs(labels, predicted, classes), want)
    for narrow in (torch.int16, torch.int32, torch.int64):
        assert torch.equal(confusion_counts(labels.to(narrow), predicted, classes), want)


def test_wrong_arguments_are_named() -> None:
    scores, labels = torch.randn(3, 13, 17), torch.zeros(101, 211, dtype=torch.int32)

    def fails(message: str, scores: Tensor, labels: Tensor, classes: int = 3) -> None:
        with pytest.raises(ValueError, match=message) as caught:
            count_argmax(scores, labels, classes)
        assert "\n" not in str(caught.value)

    fails(r"scores must be \(4, h, w\), got \(3, 13, 17\)", scores, labels, 4)
    fails(r"scores must be \(C, h, w\) float32, .* got \(13, 17\)", scores[0], labels)
    fails(r"got \(3, 13, 17\) torch\.float64", scores.double(), labels)
    fails(
        r"labels must be \(H, W\) integers, got \(101, 211\) torch\.float32", scores, labels + 0.0
    )
    fails(r"labels must be \(H, W\) integers, got \(211,\)", scores, labels[0])
    fails(
        r"labels must be in \[-1, 3\), got 0 to 3", scores, labels + 3 * torch.eye(101, 211).int()
    )
    fails(
        r"labels must be in \[-1, 3\), got -2 to 0", scores, labels - 2 * torch.eye(101, 211).int()
    )
    fails(r"labels must be in \[-1, 3\), got 255 to 255", scores, labels.byte() + 255)
    fails(r"no class or no pixel: \(3, 13, 17\) to 0 x 211", scores, labels[:0])
    fails(r"no class or no pixel: \(3, 0, 17\)", scores[:, :0], labels)
    for value in (torch.nan, torch.inf, -torch.inf, 2e38):
        spoilt = scores.clone()
        spoilt[1, 4, 5] = value
        fails(r"scores must be in \[-1e\+38, 1e\+38\], -1e30 is low enough", spoilt, labels)
        with pytest.raises(ValueError, match="scores must be in"):
            resize_argmax(spoilt, (101, 211))
    with pytest.raises(ValueError, match=r"no class or no pixel: .* to 101 x 0"):
        resize_argmax(scores, (101, 0))
    with pytest.raises(ValueError, match=r"one shape, got \(101, 211\) and \(211,\)"):
        confusion_counts(labels, labels[0], 3)
    with pytest.raises(ValueError, match=r"predictions must be in \[0, 3\), got 3 to 3"):
        confusion_counts(labels, labels + 3, 3)
    with pytest.raises(ValueError, match=r"labels must be in \[0, 3\), got 3 to 3"):
        confusion_counts(labels + 3, labels, 3)
    with pytest.raises(ValueError, match=r"labels must be in \[0, 3\), got -2 to -2"):
        confusion_counts(labels - 2, labels, 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("place", [(0, 0, 0), (3, 6, 10), (1, 4, 5)], ids=str)
def test_a_score_beyond_the_limit_is_found_anywhere(
    place: tuple[int, int, int], dtype: torch.dtype
) -> None:
    scores = torch.full((4, 7, 11), -2.0, dtype=dtype)
    for each in (scores, scores.mT):
        assert is_within(each, 2.0) and not is_within(each, 1.99)
    for value in (torch.nan, torch.inf, -torch.inf, 2.5, -2.5):
        spoilt = scores.clone()
        spoilt[place] = value
        assert not is_within(spoilt, 2.0) and not is_within(spoilt.mT, 2.0)


def test_ops_are_registered_as_pytorch_wants_them() -> None:
    scores, labels = torch.randn(3, 13, 17), labels_like((101, 211), 3)
    torch.library.opcheck(torch.ops.segbench.resize_argmax.default, (scores, 101, 211))
    for want_labels in (False, True):
        arguments = (scores, labels, 3, want_labels)
        torch.library.opcheck(torch.ops.segbench.count_argmax.default, arguments)


@pytest.mark.kernel
@pytest.mark.parametrize("name", ["normal", "equal", "ulp_apart", "tied", "masked"])
@pytest.mark.parametrize(
    "shape",
    [
        (1, 1, 1, 1, 1),
        (21, 3, 5, 13, 40),
        (5, 3, 4, 20, 30),
        (7, 9, 5, 4, 3),
        (6, 4, 4, 4, 4),
    ],
    ids=str,
)
def test_kernel_has_the_bits_of_the_cpu(
    shape: tuple[int, int, int, int, int],
    name: str,
    draw: dict[str, Kind],
    kernel_device: torch.device,
) -> None:
    classes, size = shape[0], shape[3:]
    scores = draw[name](shape[:3]).mT.contiguous().mT  # not contiguous
    want = resize_argmax_cpu(scores.contiguous().numpy(), size, fused=True)
    best, winner = resize_argmax_triton(scores.to(kernel_device), size)
    assert torch.equal(bits(best.cpu()), bits(torch.from_numpy(want.best)))
    assert torch.equal(winner.cpu(), torch.from_numpy(want.winner))
    labels = labels_like((size[1], size[0]), classes).mT
    confusion, predicted = count_argmax_triton(
        scores.to(kernel_device), labels.to(kernel_device), True
    )
    assert torch.equal(predicted.cpu(), torch.from_numpy(want.winner))
    assert torch.equal(confusion.cpu(), confusion_counts(labels, predicted.cpu(), classes))


@pytest.mark.kernel
def test_kernel_takes_more_classes_and_pixels_than_a_block(
    draw: dict[str, Kind], kernel_device: torch.device
) -> None:
    scores = draw["normal"]((CLASSES + 44, 2, 2))
    scores[CLASSES + 9, 0] += 4.0  # the best somewhere is in the second block
    want = resize_argmax_cpu(scores.numpy(), (9, PIXELS), fused=True)
    best, winner = resize_argmax_triton(scores.to(kernel_device), (9, PIXELS))
    assert torch.equal(best.cpu(), torch.from_numpy(want.best))
    assert torch.equal(winner.cpu(), torch.from_numpy(want.winner))
    assert CLASSES + 9 in winner


@pytest.mark.kernel
@pytest.mark.skipif(torch.cuda.is_available(), reason="an assertion on a GPU ends the process")
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of the interpreter, as NumPy
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
@pytest.mark.parametrize("place", [(0, 0, 0), (4, 1, 2)], ids=str)
def test_kernel_asserts_what_it_reads(place: tuple[int, int, int]) -> None:
    scores, labels = torch.randn(5, 2, 3), torch.zeros(4, 6, dtype=torch.int64)
    for value in (torch.nan, torch.inf, -torch.inf, 2e38):
        spoilt = scores.clone()
        spoilt[place] = value
        with pytest.raises(RuntimeError, match=r"a score is not in \[-1e38, 1e38\]"):
            resize_argmax_triton(spoilt, (4, 6))
        with pytest.raises(RuntimeError, match=r"a score is not in \[-1e38, 1e38\]"):
            count_argmax_triton(spoilt, labels, False)
    for label in (-2, 5, 2**32):  # the last is 0 in 32 bits
        wrong = labels.clone()
        wrong[place[1] * 3, place[2] * 2] = label
        with pytest.raises(RuntimeError, match=r"or a label not in \[-1, 5\)"):
            count_argmax_triton(scores, wrong, True)
    limits = torch.full((5, 2, 3), 1e38) * torch.tensor([1, -1, 1, -1, 1])[:, None, None]
    assert int(count_argmax_triton(limits, labels, False)[0].sum()) == 24


@pytest.mark.kernel
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.uint8, torch.int64], ids=str)
def test_kernel_takes_narrow_scores_and_labels_of_every_width(
    dtype: torch.dtype, kernel_device: torch.device
) -> None:
    scores = torch.randn(5, 3, 4)
    labels = torch.randint(0, 5, (20, 30))
    if dtype.is_floating_point:
        scores = scores.to(dtype)
        labels[3:5] = -1
    else:
        labels = labels.to(dtype)
    confusion, predicted = count_argmax_triton(
        scores.to(kernel_device), labels.to(kernel_device), False
    )
    want = resize_argmax_cpu(scores.float().numpy(), (20, 30), fused=True).winner
    assert predicted.shape == (0, 0)
    assert torch.equal(confusion.cpu(), confusion_counts(labels, torch.from_numpy(want), 5))
