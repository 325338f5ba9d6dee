"""The benches of windows and of a whole evaluation: what they make, and that they check answers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segbench.bench import evaluation, windows
from segbench.bench.decode import PATHS
from segbench.bench.evaluation import measure_evaluation, picture_folder
from segbench.errors import SegbenchError
from segbench.ops.merge_argmax import merge_argmax


def test_ratios_follow_from_the_seconds() -> None:
    found = measure_evaluation(images=3)
    needed = found["kernel_s"] + found["png_s"]
    assert found["images"] == 3 and min(found.values()) > 0
    ratio = found["evaluation_ratio_to_kernel_and_decode"]
    assert ratio == pytest.approx(found["evaluation_s"] / needed)
    both = found["evaluation_ratio_to_kernel_and_decode_with_photographs"]
    assert both == pytest.approx(found["evaluation_s"] / (needed + found["jpeg_s"]))


def test_an_evaluation_that_counts_otherwise_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores in another order than the parts take them."""
    segment = evaluation.PrecomputedSegmenter.segment
    monkeypatch.setattr(
        evaluation.PrecomputedSegmenter, "segment", lambda *given: segment(*given).flip(0)
    )
    with pytest.raises(SegbenchError, match="counts otherwise than the op; not timed"):
        measure_evaluation(images=2)


def test_pictures_repeat_after_those_that_are_made() -> None:
    with picture_folder(evaluation.DISTINCT + 1) as root:
        masks = sorted((root / "semantic_masks/val").iterdir())
        first, last = (np.asarray(Image.open(masks[place])) for place in (0, -1))
        assert np.array_equal(first, last) and first.shape == (480, 640)
        assert 0.01 < (first == 255).mean() < 0.1
        assert 5 < len(np.unique(first)) <= 13
    assert not root.exists()


def test_windows_that_differ_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "SHORT_PX", (224,))
    monkeypatch.setattr(windows, "GRIDS", (2,))
    monkeypatch.setattr(windows, "CLASSES", 5)
    found = windows.measure_windows(torch.device("cpu"), rounds=1)
    assert found["224_2"]["ratio"] == found["224_2"]["eager"] / found["224_2"]["ours"]
    right = merge_argmax
    monkeypatch.setattr(windows, "merge_argmax", lambda *a: (right(*a)[0], right(*a)[1] + 1))
    with pytest.raises(SegbenchError, match="307200 labels differ; not timed"):
        windows.measure_windows(torch.device("cpu"), rounds=1)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads Linux's /proc")
def test_windows_take_a_fraction_of_the_memory() -> None:
    peaks = {path: windows.windows_peak_bytes(path, torch.device("cpu")) for path in PATHS}
    assert peaks["eager"] > 171 * 480 * 640 * 4
    assert peaks["ours"] < peaks["eager"] / 5
