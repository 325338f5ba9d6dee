"""The decoder: its size, its equation, and chunks that change nothing."""

import runpy
from pathlib import Path

import pytest
import torch

from maskcluster.model.decoder import CPU_CHUNK, MaskDecoder

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


def test_a_narrower_one_has_the_same_layers() -> None:
    narrow, published = MaskDecoder(12), MaskDecoder()
    assert [type(layer) for layer in narrow.layers] == [type(layer) for layer in published.layers]
    assert sum(p.numel() for p in narrow.parameters()) < 5_000
    assert narrow(torch.zeros(1, 2, 3, 5)).shape == (1, 2, 12, 20)


@pytest.mark.parametrize("width", [0, 10])
def test_a_width_that_cannot_be_grouped_is_refused(width: int) -> None:
    with pytest.raises(ValueError, match=f"width must be a positive multiple of 4, got {width}"):
        MaskDecoder(width)


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


def test_a_cpu_decodes_in_chunks_that_change_nothing() -> None:
    sizes = []
    decoder, maps = MaskDecoder(), torch.randn(2, 9, 4, 4)
    decoder.layers[0].register_forward_hook(lambda _, __, out: sizes.append(len(out)))
    found = decoder(maps)
    assert sizes == [CPU_CHUNK, 2]
    decoder.chunk = 18
    torch.testing.assert_close(decoder(maps), found)
    assert sizes[2:] == [18]


def test_under_autocast_norms_keep_bfloat16_and_are_near_float32() -> None:
    decoder, maps = MaskDecoder(), torch.randn(2, 3, 8, 8)
    seen = []
    for layer in decoder.layers:
        if isinstance(layer, torch.nn.ReLU):
            layer.register_forward_hook(lambda _, __, out: seen.append(out.dtype))
    exact = decoder(maps)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = decoder(maps)
    assert seen == [torch.float32] * 4 + [torch.bfloat16] * 4
    error = (rounded.float() - exact).square().mean().sqrt()
    assert error < 0.03 * exact.std()
    rounded.float().sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in decoder.parameters())  # type: ignore[union-attr]
