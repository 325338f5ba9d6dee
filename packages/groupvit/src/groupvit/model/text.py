"""The text tower: CLIP's causal transformer at a smaller width."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from groupvit.config import TextConfig
from groupvit.model.layers import Block, run


class TextTower(nn.Module):
    """Read texts, each from the state of its end-of-text token.

    Args:
        config: sizes.
    """

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocabulary, config.width)
        self.positions = nn.Parameter(torch.empty(config.context, config.width))  # (77, C)
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads, quick=True) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.width)
        self.checkpointed = False
        """Whether blocks keep their input alone and are run again in the backward pass."""
        self._init_weights()

    def forward(self, tokens: Tensor, positions: Tensor, owners: Tensor) -> Tensor:
        """Encode texts that are packed into rows (`groupvit.texts.Texts`).

        Args:
            tokens: (R, T) int64 ids.
            positions: (R, T) int64, the place of each token in its own text, below the context.
            owners: (R, T) int64, the text that a token belongs to; it sees the tokens of that text
                up to itself.

        Returns:
            (R, T, C) states; `pick` takes those that stand for texts.
        """
        # the gradient of `self.positions[positions]` would be summed in any order
        places = F.embedding(positions, self.positions)  # (R, T, C)
        x: Tensor = self.token_embedding(tokens) + places
        mask = _mask(owners, _compute_dtype(x))
        for block in self.blocks:
            x = run(block, x, None, mask, checkpointed=self.checkpointed)
        return x

    def pick(self, states: Tensor, ends: Tensor) -> Tensor:
        """(R, T, C) states and (n,) places of last tokens -> (n, C), normed."""
        return self.norm(states.flatten(0, 1)[ends])  # type: ignore[no-any-return]  # nn.Module

    def _init_weights(self) -> None:
        """CLIP's initialisation; MLP biases keep PyTorch's default."""
        width, layers = self.config.width, self.config.layers
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positions, std=0.01)
        out_std = width**-0.5 * (2 * max(layers, 1)) ** -0.5
        for block in self.blocks:
            assert isinstance(block, Block)
            nn.init.normal_(block.attention.qkv.weight, std=width**-0.5)
            nn.init.normal_(block.attention.out.weight, std=out_std)
            nn.init.zeros_(block.attention.qkv.bias)
            nn.init.zeros_(block.attention.out.bias)
            nn.init.normal_(block.mlp.fc1.weight, std=(2 * width) ** -0.5)
            nn.init.normal_(block.mlp.fc2.weight, std=out_std)


def _mask(owners: Tensor, dtype: torch.dtype) -> Tensor:
    """(R, T) owners -> (R, 1, T, T): 0 where a token sees another one, -inf elsewhere."""
    visible = (owners[:, :, None] == owners[:, None, :]).tril()[:, None]  # (R, 1, T, T)
    hidden = torch.full((), float("-inf"), dtype=dtype, device=owners.device)
    return torch.where(visible, torch.zeros_like(hidden), hidden)


def _compute_dtype(x: Tensor) -> torch.dtype:
    """What products of `x` are computed in."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
