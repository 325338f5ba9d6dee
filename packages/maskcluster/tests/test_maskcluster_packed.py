"""Bits of masks: their order in a byte, the way back, and what is refused."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maskcluster.masks.packed import pack, unpack


def test_worked_example() -> None:
    """Columns 0, 9 and 31 of the third row are bit 0 of byte 0, bit 1 of 1 and bit 7 of 3."""
    mask = torch.zeros(32, 32, dtype=torch.bool)
    mask[2, [0, 9, 31]] = True
    packed = pack(mask)
    assert packed.shape == (32, 4) and packed.dtype == torch.uint8
    assert packed[2].tolist() == [1, 2, 0, 128]
    assert int(packed.sum()) == 131
    assert torch.equal(unpack(packed), mask)


@settings(deadline=None)
@given(
    lead=st.lists(st.integers(0, 3), max_size=2),
    side=st.sampled_from([32, 64, 96]),
    share=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    seed=st.integers(0, 99),
)
def test_unpack_gives_back_what_was_packed(
    lead: list[int], side: int, share: float, seed: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    masks = torch.rand(*lead, side, side, generator=random) < share
    packed = pack(masks)
    assert torch.equal(unpack(packed), masks)
    numpy = np.packbits(masks.numpy(), axis=-1, bitorder="little")
    assert np.array_equal(packed.numpy(), numpy)


def test_strides_do_not_matter() -> None:
    masks = torch.rand(3, 64, 128) < 0.5
    for strided in (masks[..., ::2], masks[:, :, :64].mT, masks[:1, :, :64].expand(4, -1, -1)):
        assert pack(strided).is_contiguous()
        assert torch.equal(pack(strided), pack(strided.contiguous()))
        assert torch.equal(unpack(pack(strided).mT.contiguous().mT), strided)


def test_wrong_arguments_are_named() -> None:
    masks = torch.zeros(2, 64, 64, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"must be bool, got torch\.float32"):
        pack(masks.float())
    with pytest.raises(ValueError, match=r"must be \(\.\.\., S, S\), got \(2, 64, 32\)"):
        pack(masks[..., :32])
    with pytest.raises(ValueError, match="a multiple of 32, got 40"):
        pack(masks[:, :40, :40])
    with pytest.raises(ValueError, match="a multiple of 32, got 0"):
        pack(masks[:, :0, :0])
    with pytest.raises(ValueError, match=r"must be uint8, got torch\.bool"):
        unpack(masks)
    with pytest.raises(ValueError, match=r"got \(2, 64, 4\)"):
        unpack(pack(masks)[..., :4])
    with pytest.raises(ValueError, match="a multiple of 32, got 8"):
        unpack(torch.zeros(8, 1, dtype=torch.uint8))
