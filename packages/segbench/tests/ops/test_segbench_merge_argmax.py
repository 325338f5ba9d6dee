"""Windows merged, resized and compared without full-size scores: the bits of eager PyTorch."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from segbench.ops.merge_argmax import merge_argmax
from segbench.ops.merge_argmax.cpu import merge_argmax_cpu
from segbench.ops.merge_argmax.kernel import CLASSES, SIDE, merge_argmax_triton
from segbench.ops.merge_argmax.reference import Place, merge_argmax_reference
from segbench.protocols.inference import windows as lay_windows

Kind = Callable[[tuple[int, int, int]], Tensor]
Size = tuple[int, int]

LAYOUTS = [  # resized image, window, stride, places of a window, labels
    ((112, 149), 80, 40, (5, 5), (120, 160)),  # patches of 16, as most protocols have
    ((100, 170), 90, 31, (7, 4), (97, 140)),  # windows cover a pixel up to nine times
    ((70, 260), 96, 48, (9, 9), (70, 260)),  # lower than a window; the labels' own size
    ((90, 90), 90, 45, (6, 6), (200, 31)),  # one window
    ((128, 131), 64, 64, (64, 32), (90, 201)),  # no overlap but at the end; scores at full size
    ((230, 190), 70, 60, (1, 9), (60, 71)),  # shrunk; one row of places
]


def draw_windows(kind: Kind, classes: int, count: int, grid: Size) -> Tensor:
    """(n, C, h, w)"""
    return kind((classes, count * grid[0], grid[1])).reshape(classes, count, *grid).transpose(0, 1)


def eager(windows: Tensor, places: list[Place], resized: Size, size: Size) -> tuple[Tensor, Tensor]:
    """As the field writes it."""
    total = torch.zeros(windows.shape[1], *resized)
    hits = torch.zeros(resized)
    for scores, (top, left, bottom, right) in zip(windows, places, strict=True):
        scores = scores.float().contiguous()[None]
        part = F.interpolate(scores, (bottom - top, right - left), mode="bilinear")
        total[:, top:bottom, left:right] += part[0]
        hits[top:bottom, left:right] += 1
    best, winner = F.interpolate((total / hits)[None], size, mode="bilinear")[0].max(dim=0)
    return best, winner.int()


def bits(values: Tensor) -> Tensor:
    return values.view(torch.int32)


def test_worked_example() -> None:
    """Two windows of two columns of places overlap in the middle third of 120 x 6 pixels."""
    windows = torch.tensor([[[[4.0, 0.0]], [[1.0, 1.0]]], [[[0.0, 0.0]], [[1.0, 1.0]]]])
    places = [(0, 0, 130, 4), (0, 2, 130, 6)]
    best, winner = merge_argmax(windows, places, (130, 6), (130, 6))
    # class 0 of the first window: 4, 3, 1, 0; then the mean with 0
    assert best.tolist() == [[4.0, 3.0, 1.0, 1.0, 1.0, 1.0]] * 130
    assert winner.tolist() == [[0, 0, 1, 1, 1, 1]] * 130  # 0.5 in the third column
    doubled = merge_argmax(2 * windows[:, [1, 0, 0]], places, (130, 6), (130, 12))
    assert doubled[1][0].tolist() == [1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0]  # never 2, which ties


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_bits_are_eager_ones(layout: tuple[Size, int, int, Size, Size], kind: Kind) -> None:
    resized, window_px, stride_px, grid, size = layout
    places: list[Place] = list(lay_windows(*resized, window_px, stride_px))
    windows = draw_windows(kind, 19, len(places), grid)
    if kind.__name__ == "huge":
        windows = windows / len(places)
    want_best, want_winner = eager(windows, places, resized, size)
    best, winner = merge_argmax(windows, places, resized, size)
    assert torch.equal(bits(best), bits(want_best))
    assert torch.equal(winner, want_winner)
    for fused in (False, True):
        scores = windows.contiguous().numpy()
        pruned = merge_argmax_cpu(scores, places, resized, size, fused=fused)
        whole = merge_argmax_cpu(scores, places, resized, size, fused=fused, prune=False)
        assert np.array_equal(pruned.best.view(np.int32), whole.best.view(np.int32))
        assert np.array_equal(pruned.winner, whole.winner)


@settings(deadline=None, max_examples=60)  # the first call compiles
@given(
    classes=st.integers(1, 40),
    grid=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    resized=st.tuples(st.integers(1, 150), st.integers(1, 150)),
    size=st.tuples(st.integers(1, 160), st.integers(1, 160)),
    window_px=st.integers(1, 120),
    name=st.sampled_from(["normal", "smooth", "ulp_apart", "tied", "masked"]),
    data=st.data(),
)
def test_any_geometry_is_eager_bit_for_bit(
    draw: dict[str, Kind],
    classes: int,
    grid: Size,
    resized: Size,
    size: Size,
    window_px: int,
    name: str,
    data: st.DataObject,
) -> None:
    stride_px = data.draw(st.integers(max(window_px // 3, 1), window_px))
    places: list[Place] = list(lay_windows(*resized, window_px, stride_px))
    if len(places) > 50:
        places, resized = places[:1], (places[0][2], places[0][3])
    torch.manual_seed(classes)
    windows = draw_windows(draw[name], classes, len(places), grid)
    want_best, want_winner = eager(windows, places, resized, size)
    best, winner = merge_argmax(windows, places, resized, size)
    assert torch.equal(bits(best), bits(want_best))
    assert torch.equal(winner, want_winner)
    compiled = merge_argmax_cpu(windows.contiguous().numpy(), places, resized, size)
    torch.testing.assert_close(torch.from_numpy(compiled.best), want_best)  # at any size


def test_rectangles_need_no_order_and_may_repeat(draw: dict[str, Kind]) -> None:
    places = [(0, 60, 90, 150), (20, 0, 110, 90), (0, 0, 90, 90), (20, 60, 110, 150)]
    places += [(7, 31, 97, 121), (7, 31, 97, 121)]
    windows = draw_windows(draw["smooth"], 30, 6, (6, 5))
    want = merge_argmax_reference(windows, places, (110, 150), (140, 130))
    got = merge_argmax(windows, places, (110, 150), (140, 130))
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_windows_that_cancel_are_bounded_by_their_size() -> None:
    """Means near 0 of windows near 1e6 have the rounding error of 1e6: no class may be left out."""
    places = [(0, 0, 90, 90)] * 3
    large = 1e6 * torch.randn(1, 1, 6, 6)
    near = torch.randn(3, 60, 6, 6) * 0.05
    windows = torch.cat([near[:1] + large, near[1:2] - large, near[2:]])
    pruned = merge_argmax_cpu(windows.numpy(), places, (90, 90), (90, 90))
    whole = merge_argmax_cpu(windows.numpy(), places, (90, 90), (90, 90), prune=False)
    assert np.array_equal(pruned.winner, whole.winner)
    assert len(np.unique(whole.winner)) > 20


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_narrow_types_and_strides(dtype: torch.dtype) -> None:
    windows = torch.randn(5, 7, 3, 21).to(dtype).permute(2, 3, 0, 1)  # (3, 21, 5, 7)
    places = [(0, left, 80, left + 80) for left in (0, 30, 61)]
    want_best, want_winner = eager(windows, places, (80, 141), (97, 140))
    best, winner = merge_argmax(windows, places, (80, 141), (97, 140))
    assert best.dtype == torch.float32 and torch.equal(best, want_best)
    assert torch.equal(winner, want_winner)


def test_wrong_arguments_are_named() -> None:
    windows, places = torch.randn(2, 3, 5, 5), [(0, 0, 80, 80), (0, 40, 80, 120)]

    def fails(
        message: str, windows: Tensor, places: list[Place], resized: Size = (80, 120), px: int = 140
    ) -> None:
        with pytest.raises(ValueError, match=message) as caught:
            merge_argmax(windows, places, resized, (px, px))
        assert "\n" not in str(caught.value)

    fails(r"windows must be \(n, C, h, w\) float32, .* got \(3, 5, 5\)", windows[0], places)
    fails(r"got \(2, 3, 5, 5\) torch\.float64", windows.double(), places)
    fails(r"no window, class or pixel: \(2, 0, 5, 5\)", windows[:, :0], places)
    fails(r"no window, class or pixel: .* to 0 x 0", windows, places, px=0)
    fails("2 windows need as many places, got 1", windows, places[:1])
    fails(r"of one size, got \[\(80, 79\), \(80, 80\)\]", windows, [places[0], (0, 41, 80, 120)])
    fails(r"of one size, got \[\(0, 80\)\]", windows, [(0, 0, 0, 80)] * 2)
    fails(r"must lie in 80 x 119, got \(0, 40, 80, 120\)", windows, places, (80, 119))
    fails(r"must lie in 80 x 120, got \(-1, 0, 79, 80\)", windows, [(-1, 0, 79, 80), places[1]])
    fails("80 pixels are covered by no window", windows, places, (80, 121))
    for value in (torch.nan, torch.inf, -torch.inf, 6e37):
        spoilt = windows.clone()
        spoilt[1, 2, 3, 4] = value
        fails(r"scores must be in \[-5e\+37, 5e\+37\], -1e30 is low enough", spoilt, places)


def test_op_is_registered_as_pytorch_wants_it() -> None:
    arguments = (torch.randn(2, 3, 5, 5), [0, 0, 80, 80, 0, 40, 80, 120], [80, 120], [90, 140])
    torch.library.opcheck(torch.ops.segbench.merge_argmax.default, arguments)


MEMORY = """
import sys, ctypes, torch
from pathlib import Path
from segbench.ops.merge_argmax import merge_argmax
from segbench.ops.merge_argmax.reference import merge_argmax_reference
call = {"ours": merge_argmax, "eager": merge_argmax_reference}[sys.argv[1]]
places = [(0, left, 224, left + 224) for left in (0, 112, 224)]
windows = torch.randn(3, 171, 14, 14)
def status(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])
call(windows, places, (224, 448), (70, 80))
ctypes.CDLL(None).malloc_trim(0)
Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
call(windows, places, (224, 448), (300, 600))
print(status("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads Linux's /proc")
def test_memory_is_no_multiple_of_classes_and_pixels() -> None:
    used = {}
    for name in ("ours", "eager"):
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, name], capture_output=True, text=True, check=True
        )
        used[name] = 1024 * int(done.stdout)
    assert used["eager"] > 171 * 300 * 600 * 4
    assert used["ours"] < used["eager"] / 10  # labels, scores and the low-resolution windows


KERNEL_LAYOUTS = [
    ((20, 27), 16, 8, (2, 2), (13, 21), 5),
    ((10, 10), 16, 8, (3, 3), (SIDE + 1, 2 * SIDE - 1), 3),  # one window, smaller than asked for
    ((9, 14), 9, 5, (1, 2), (9, 14), 7),
]


@pytest.mark.kernel
@pytest.mark.parametrize("name", ["normal", "equal", "ulp_apart", "tied", "masked"])
@pytest.mark.parametrize("layout", KERNEL_LAYOUTS, ids=str)
def test_kernel_has_the_bits_of_the_cpu(
    layout: tuple[Size, int, int, Size, Size, int],
    name: str,
    draw: dict[str, Kind],
    kernel_device: torch.device,
) -> None:
    resized, window_px, stride_px, grid, size, classes = layout
    places: list[Place] = list(lay_windows(*resized, window_px, stride_px))
    windows = draw_windows(draw[name], classes, len(places), grid)  # not contiguous
    want = merge_argmax_cpu(windows.contiguous().numpy(), places, resized, size, fused=True)
    best, winner = merge_argmax_triton(windows.to(kernel_device), places, resized, size)
    assert torch.equal(bits(best.cpu()), bits(torch.from_numpy(want.best)))
    assert torch.equal(winner.cpu(), torch.from_numpy(want.winner))


@pytest.mark.kernel
def test_kernel_takes_more_classes_than_a_block(
    draw: dict[str, Kind], kernel_device: torch.device
) -> None:
    windows = draw["normal"]((CLASSES + 44, 4, 3)).reshape(1, -1, 4, 3)
    windows[0, [5, CLASSES - 1, CLASSES + 9]] += 9.0  # the others win nowhere
    places, size = [(0, 0, 6, 7)], (5, 9)
    want = merge_argmax_cpu(windows.numpy(), places, (6, 7), size, fused=True)
    best, winner = merge_argmax_triton(windows.to(kernel_device), places, (6, 7), size)
    assert torch.equal(best.cpu(), torch.from_numpy(want.best))
    assert torch.equal(winner.cpu(), torch.from_numpy(want.winner))
    assert CLASSES + 9 in winner


@pytest.mark.kernel
@pytest.mark.skipif(torch.cuda.is_available(), reason="an assertion on a GPU ends the process")
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of the interpreter, as NumPy
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_kernel_asserts_what_it_reads() -> None:
    places: list[Place] = [(0, 0, 9, 9), (0, 5, 9, 14)]
    windows = torch.full((2, 3, 2, 2), -5e37)
    assert merge_argmax_triton(windows, places, (9, 14), (8, 8))[1].shape == (8, 8)
    for place, value in (
        ((0, 0, 0, 0), torch.nan),
        ((1, 2, 1, 1), -torch.inf),
        ((0, 1, 1, 0), 6e37),
    ):
        spoilt = windows.clone()
        spoilt[place] = value
        with pytest.raises(RuntimeError, match=r"a score is not in \[-5e\+37, 5e\+37\]"):
            merge_argmax_triton(spoilt, places, (9, 14), (8, 8))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("name", ["smooth", "ulp_apart", "tied"])
def test_gpu_has_the_bits_of_the_cpu_at_real_sizes(
    layout: tuple[Size, int, int, Size, Size], name: str, draw: dict[str, Kind]
) -> None:
    resized, window_px, stride_px, grid, size = layout
    places: list[Place] = list(lay_windows(*resized, window_px, stride_px))
    windows = draw_windows(draw[name], 171, len(places), grid)
    want = merge_argmax_cpu(windows.contiguous().numpy(), places, resized, size, fused=True)
    best, winner = merge_argmax(windows.cuda(), places, resized, size)
    assert torch.equal(bits(best.cpu()), bits(torch.from_numpy(want.best)))
    assert torch.equal(winner.cpu(), torch.from_numpy(want.winner))
