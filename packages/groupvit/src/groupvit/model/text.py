"""The text tower: CLIP's causal transformer at a smaller width."""

import torch
from torch import Tensor, nn

from groupvit.config import TextConfig
from groupvit.model.layers import Block


class TextTower(nn.Module):
    """Read a text from its end-of-text token.

    Attention is causal, so tokens after the end of a text never reach the result: callers may trim
    padding, which is exact and saves most of the work.

    Args:
        config: sizes.
    """

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocabulary, config.width)
        self.positions = nn.Parameter(torch.empty(config.context, config.width))  # (77, C)
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads, causal=True, quick=True) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.width)
        self._init_weights()

    def forward(self, tokens: Tensor) -> Tensor:
        """Encode texts.

        Args:
            tokens: (n, T) int64 ids, T <= context; the highest id marks the end of the text, what
                follows it is ignored.

        Returns:
            (n, C), the normed state at the end-of-text token (its first place, if several).
        """
        x = self.token_embedding(tokens) + self.positions[: tokens.shape[1]]  # (n, T, C)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return x[torch.arange(len(x), device=x.device), tokens.argmax(dim=1)]  # type: ignore[no-any-return]  # (n, C)

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


def trim(tokens: Tensor) -> Tensor:
    """Cut the padding that no text needs: (n, T) -> (n, longest text), on the CPU."""
    return tokens[:, : int(tokens.argmax(dim=1).max()) + 1]
