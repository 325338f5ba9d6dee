import numpy as np
import pytest
import torch

from maskcluster.bench import generators


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # of pycocotools
def test_sampling_beats_decoding_several_times() -> None:
    found = generators._rle_sample()
    assert found["runs"] > 1000
    assert found["ratio"] > 3


def test_photographs_are_smooth_and_the_same_each_time() -> None:
    photo = generators._photo(48, 64)
    assert photo.shape == (48, 64, 3)
    assert photo.dtype == np.uint8
    assert np.array_equal(photo, generators._photo(48, 64))
    assert np.abs(np.diff(photo.astype(int), axis=1)).mean() < 20


def test_times_are_medians_of_the_repeats() -> None:
    calls = []
    ms = generators._time(lambda: calls.append(0), torch.device("cpu"), 4)
    assert len(calls) == 5
    assert 0 <= ms < 100


def test_three_in_ten_candidates_are_good() -> None:
    model = generators._Blobs(torch.device("cpu"), 8)
    logits, iou = model.predict(None, range(8))
    assert logits.shape == (8, 3, 256, 256)
    assert iou.shape == (8, 3)
    assert model.upsample((30, 40), logits[0]).shape == (3, 30, 40)
