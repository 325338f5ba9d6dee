"""Blocks with the batch first: the same results, and one product where there were many."""

from typing import Any

import pytest
import torch
from open_clip.transformer import CustomResidualAttentionBlock, ResidualAttentionBlock
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from maskcluster.model.blocks import run_block


def usual(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    block: nn.Module = ResidualAttentionBlock(12, 3, **options).double()
    with torch.no_grad():
        for value in block.parameters():
            value.add_(0.2 * torch.randn_like(value))
    return block


def results(block: nn.Module, run: Any, mask: Tensor | None) -> list[Tensor]:
    """Output and all gradients."""
    tokens = torch.randn(3, 5, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    tokens.requires_grad_()
    out = run(block, tokens, mask)
    return [out, *torch.autograd.grad((out**3).sum(), [tokens, *block.parameters()])]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("layer_scale", [None, 0.3])
def test_a_block_is_what_open_clip_computes(layer_scale: float | None, causal: bool) -> None:
    block = usual(ls_init_value=layer_scale)
    mask = torch.full((5, 5), -torch.inf).triu(1) if causal else None
    wanted = results(block, lambda b, x, m: b(x, attn_mask=m), mask)
    found = results(block, run_block, mask)
    assert len(found) > 12
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


def test_a_block_of_another_kind_is_called() -> None:
    block = CustomResidualAttentionBlock(12, 3, scale_heads=True).double()
    tokens = torch.randn(2, 5, 12, dtype=torch.float64)
    mask = torch.full((5, 5), -torch.inf).triu(1).double()
    assert torch.equal(run_block(block, tokens, mask), block(tokens, attn_mask=mask))


@pytest.mark.parametrize("change", [{"dropout": 0.5}, {"add_zero_attn": True}])
def test_attention_with_extras_is_called(change: dict[str, Any]) -> None:
    block = usual().eval()
    for name, value in change.items():
        setattr(block.attn, name, value)
    called = []
    block.attn.register_forward_hook(lambda *_: called.append(1))  # type: ignore[union-attr]
    tokens = torch.randn(2, 5, 12, dtype=torch.float64)
    assert torch.equal(run_block(block, tokens), block(tokens))
    assert len(called) == 2


class Shapes(TorchDispatchMode):  # type: ignore[no-untyped-call]  # PyTorch's
    """Notes what is multiplied in batches."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # PyTorch's
        self.bmm: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.bmm.default:
            self.bmm.append(tuple(args[1].shape))
        return func(*args, **(kwargs or {}))


def test_frozen_weights_are_not_multiplied_position_by_position() -> None:
    """PyTorch does so with what open_clip calls: the weights are copied once for each position."""
    block, tokens = usual().requires_grad_(False), torch.randn(3, 5, 12, dtype=torch.float64)
    with Shapes() as theirs:
        block(tokens)
    with Shapes() as ours:
        run_block(block, tokens)
    assert (5, 12, 36) in theirs.bmm
    assert all(shape[2] != 36 for shape in ours.bmm)
