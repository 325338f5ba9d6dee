import numpy as np
import pytest
import torch

from maskcluster.bench import generators


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # of pycocotools
def test_sampling_is_compared_with_decoding() -> None:
    found = generators._rle_sample()
    assert found["runs"] > 1000
    assert found["ratio"] > 0


def test_photographs_are_smooth_and_the_same_each_time() -> None:
    photo = generators._photo(48, 64)
    assert photo.shape == (48, 64, 3)
    assert photo.dtype == np.uint8
    assert np.array_equal(photo, generators._photo(48, 64))
    assert np.abs(np.diff(photo.astype(int), axis=1)).mean() < 20


def test_ways_are_timed_turn_about_with_percentiles() -> None:
    calls: list[str] = []
    found = generators._compare(
        lambda: calls.append("o"), lambda: calls.append("p"), torch.device("cpu"), repeats=4
    )
    assert "".join(calls) == "op" * 5
    for way in (found["ways"]["ours"], found["ways"]["plain"]):
        assert 0 < way["p20_ms"] <= way["median_ms"] <= way["p80_ms"]


def test_three_in_ten_candidates_are_good() -> None:
    model = generators._Blobs(torch.device("cpu"), 8)
    logits, iou = model.predict(None, range(8))
    assert logits.shape == (8, 3, 256, 256)
    assert iou.shape == (8, 3)
    assert model.upsample((30, 40), logits[0]).shape == (3, 30, 40)
