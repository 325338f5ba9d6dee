"""Counter-based noise: the published generator, and what it depends on."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from groupvit.ops.uniform import uniform
from groupvit.ops.uniform.kernel import uniform_triton
from groupvit.ops.uniform.reference import philox


@pytest.mark.parametrize(
    ("word", "key", "want"),
    [  # known answers of Random123 for philox4x32-10
        (0, 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (0xFFFFFFFF, 0xFFFFFFFF, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    ],
)
def test_philox_gives_its_published_answers(word: int, key: int, want: tuple[int, ...]) -> None:
    counter = np.full((1, 1), word, np.uint64)
    words = philox((counter, counter, counter, counter), (key, key))
    assert tuple(int(w[0, 0]) for w in words) == want


@given(
    seed=st.integers(0, 2**63 - 1),
    first=st.integers(0, 2**40),
    start=st.integers(0, 5),
    places=st.integers(1, 40),
)
def test_a_part_of_a_batch_has_the_numbers_of_the_whole(
    seed: int, first: int, start: int, places: int
) -> None:
    whole = uniform(torch.tensor([seed, first]), 3, 8, places + 7)
    part = uniform(torch.tensor([seed, first + start]), 3, 8 - start, places)
    assert torch.equal(part, whole[start:, :places])


def test_seed_stream_sample_and_place_all_matter() -> None:
    base = uniform(torch.tensor([5, 0]), 1, 4, 100)
    assert not torch.equal(base, uniform(torch.tensor([6, 0]), 1, 4, 100))
    assert not torch.equal(base, uniform(torch.tensor([5 + 2**40, 0]), 1, 4, 100))
    assert not torch.equal(base, uniform(torch.tensor([5, 0]), 2, 4, 100))
    assert len(set(base.flatten().tolist())) == 400


def test_numbers_are_uniform_inside_the_interval() -> None:
    numbers = uniform(torch.tensor([11, 0]), 0, 100, 10_000).flatten()
    assert float(numbers.min()) > 0
    assert float(numbers.max()) < 1
    counts = torch.histc(numbers, 50, 0, 1)
    expected = len(numbers) / 50
    assert float(((counts - expected) ** 2 / expected).sum()) < 90  # chi-square, 49 degrees: 1e-3
    assert abs(float(torch.corrcoef(torch.stack([numbers[:-1], numbers[1:]]))[0, 1])) < 5e-3


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"noise must be \(2,\) int64, got \(3,\)"):
        uniform(torch.zeros(3, dtype=torch.int64), 0, 1, 1)
    with pytest.raises(ValueError, match="out of range: -1, 1, 1"):
        uniform(torch.zeros(2, dtype=torch.int64), -1, 1, 1)


def test_op_is_registered_as_pytorch_wants_it() -> None:
    torch.library.opcheck(torch.ops.groupvit.uniform.default, (torch.tensor([1, 2]), 3, 4, 9))


@pytest.mark.kernel
@pytest.mark.parametrize("stream", [0, 1, 2**32 - 1])
@pytest.mark.parametrize(("batch", "places"), [(1, 1), (3, 7), (2, 1024), (2, 2051), (0, 5)])
def test_kernel_is_the_reference_bit_for_bit(
    batch: int, places: int, stream: int, kernel_device: torch.device
) -> None:
    noise = torch.tensor([2**62 + 12345, 2**33 + 1])
    got = uniform_triton(noise.to(kernel_device), stream, batch, places)
    assert torch.equal(got.cpu(), uniform(noise, stream, batch, places))
