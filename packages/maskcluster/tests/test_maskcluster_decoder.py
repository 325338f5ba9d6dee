"""The decoder: its size, its equation, and chunks that change nothing."""

import runpy
from pathlib import Path

import pytest
import torch

from maskcluster.model.decoder import MaskDecoder

plain_decoder = runpy.run_path(str(Path(__file__).with_name("restated_pixelclip.py")))[
    "plain_decoder"
]


def test_it_has_118145_parameters() -> None:
    assert sum(p.numel() for p in MaskDecoder().parameters()) == 118_145


def test_it_is_the_published_network() -> None:
    decoder = MaskDecoder().double()
    maps = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    got = decoder(maps)
    assert got.shape == (2, 3, 20, 24)
    want = plain_decoder(decoder, maps.reshape(6, 1, 5, 6)).view(2, 3, 20, 24)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


def test_clusters_are_decoded_by_themselves() -> None:
    decoder = MaskDecoder()
    maps = torch.randn(2, 4, 5, 5)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(decoder(maps)[:, order], decoder(maps[:, order]))


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("chunk", [1, 4, 6, 100])
def test_chunks_change_neither_logits_nor_gradients(chunk: int, recompute: bool) -> None:
    torch.manual_seed(0)
    whole = MaskDecoder().double()
    parts = MaskDecoder(chunk=chunk, recompute=recompute).double()
    parts.load_state_dict(whole.state_dict())
    maps = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    upstream = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    found = []
    for decoder in (whole, parts):
        own = maps.clone().requires_grad_()
        logits = decoder(own)
        logits.backward(upstream)
        found.append((logits, own.grad, *(p.grad for p in decoder.parameters())))
    for want, got in zip(*found, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


def test_nothing_gives_nothing() -> None:
    assert MaskDecoder()(torch.zeros(0, 3, 4, 4)).shape == (0, 3, 16, 16)
    assert MaskDecoder()(torch.zeros(1, 0, 4, 4)).shape == (1, 0, 16, 16)


def test_a_negative_chunk_is_refused() -> None:
    with pytest.raises(ValueError, match="chunk must be >= 0, got -1"):
        MaskDecoder(chunk=-1)
