"""Class prompts: what a cluster is, as a row of the space that CLIP's towers share."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskcluster.model.blocks import run_block
from maskcluster.model.clip import Clip
from maskcluster.precision import wide

TEMPLATE = "A photo of a {} in the scene"
"""The sentence around a class prompt in training."""

TEMPLATES = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
    TEMPLATE,
)
"""The eight that the published model is tested with, and may be trained with."""

_LAST_WORDS = 10
"""Ids at the end of the vocabulary that class prompts do not start from (the code): CLIP's hold the
special tokens."""


class Prompts(Protocol):
    """Features of K clusters."""

    clusters: int
    """K."""

    def __call__(self) -> Tensor:
        """(K, D) unit rows."""
        ...


class TextTower(nn.Module):
    """A view of an open_clip model's frozen text tower that takes embeddings in place of tokens.

    A causal tower that is read at the end of a text (CLIP's) runs on the positions up to there, 13
    of 77 for a class prompt of 4 tokens: nothing after the end can change the feature. One that
    reads both ways or is read at its last position (SigLIP's: both) sees the padding, so it runs on
    its whole context, with the padding token after the end, as in open_clip.

    The weights stay the open_clip model's: they are not parameters of this module, and they move
    with that model.

    Args:
        clip: the model and its tokenizer.

    Raises:
        ValueError: a text tower that ends in a class token (CoCa), masks padding, is read at
            another place, or is of another library.
    """

    def __init__(self, clip: Clip) -> None:
        super().__init__()
        parts: Any = getattr(clip.model, "text", clip.model)
        self._pool = _checked_pool(clip.model, parts)
        self._sees_padding = parts.attn_mask is None or self._pool == "last"
        self.tokenizer = clip.tokenizer
        self._parts = (parts,)  # in a tuple, so that it does not become a submodule
        blank, letter = clip.tokenizer(["", "a"])  # (T,) each: start, end and padding token alone
        self._starts = int((blank == letter).cumprod(dim=0).sum())
        self._end, self._padding = int(blank[self._starts]), int(blank[-1])

    @property
    def width(self) -> int:
        """Channels d_e of a token's embedding."""
        return int(self._parts[0].token_embedding.weight.shape[1])

    @property
    def vocabulary(self) -> int:
        """Token ids."""
        return int(self._parts[0].token_embedding.weight.shape[0])

    @property
    def context(self) -> int:
        """Longest text in tokens."""
        return int(self._parts[0].positional_embedding.shape[0])

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        where: torch.device = self._parts[0].token_embedding.weight.device
        return where

    def ids(self, text: str) -> list[int]:
        """Token ids of a text, from the start token, if there is one, to the end token."""
        rows = self.tokenizer([text])  # (1, T)
        return rows[0, : int(self._ends(rows)) + 1].tolist()

    def words(self, text: str) -> list[int]:
        """Token ids of a text without start and end token."""
        return self.ids(text)[self._starts : -1]

    def around(self, template: str) -> tuple[list[int], list[int]]:
        """Token ids before and after the `{}` of a template, with start and end token.

        Raises:
            ValueError: the template does not have one `{}`.
        """
        parts = template.split("{}")
        if len(parts) != 2:
            raise ValueError(f"a template must have one {{}}, got {template!r}")
        return self.ids(parts[0])[:-1], self.ids(parts[1])[self._starts :]

    def embed(self, ids: Tensor) -> Tensor:
        """Embeddings (..., d_e) of token ids (...), without positions."""
        return self._parts[0].token_embedding(ids)  # type: ignore[no-any-return]  # Any

    def read(self, rows: Tensor) -> Tensor:
        """Encode texts that are given as the tokenizer's rows.

        Args:
            rows: (n, T) int64 token ids with their padding, on any device.

        Returns:
            (n, D), float32 at least, not of unit length.
        """
        last = self._ends(rows)  # (n,)
        kept = rows[:, : int(last.max()) + 1].to(self.device)
        return self(self.embed(kept), last.to(self.device))  # type: ignore[no-any-return]  # nn.Module

    def forward(self, embeddings: Tensor, last: Tensor) -> Tensor:
        """Encode texts that are given as embeddings.

        Args:
            embeddings: (n, T, d_e), without positions, T at most the context; what stands after
                the end token does not matter.
            last: (n,) int64, the place of the end token of each.

        Returns:
            (n, D), float32 at least, not of unit length.

        Raises:
            ValueError: T is larger than the context.
        """
        tower = self._parts[0]
        length = embeddings.shape[1]
        if length > self.context:
            raise ValueError(f"texts must have at most {self.context} tokens, got {length}")
        if self._sees_padding:
            embeddings, length = self._padded(embeddings, last), self.context
        x = embeddings + tower.positional_embedding[:length]  # (n, T, d_e)
        mask = None if tower.attn_mask is None else tower.attn_mask[:length, :length]
        for block in tower.transformer.resblocks:
            x = run_block(block, x, mask)
        read = x[:, -1] if self._pool == "last" else x[torch.arange(len(x), device=x.device), last]
        ends = tower.ln_final(read)  # (n, d_e)
        projection = tower.text_projection
        if isinstance(projection, nn.Linear):
            ends = projection(ends)
        elif projection is not None:
            ends = ends @ projection  # (n, D)
        return wide(ends)

    def _padded(self, embeddings: Tensor, last: Tensor) -> Tensor:
        """(n, T, d_e) -> (n, context, d_e) with the padding token after every end token."""
        texts = F.pad(embeddings, (0, 0, 0, self.context - embeddings.shape[1]))
        padding = self.embed(torch.tensor(self._padding, device=texts.device))  # (d_e,)
        places = torch.arange(self.context, device=texts.device)
        return torch.where((places <= last[:, None])[..., None], texts, padding)

    def _ends(self, rows: Tensor) -> Tensor:
        """(n,) places of the end tokens of (n, T) token ids."""
        if self._pool == "argmax":
            return rows.argmax(dim=1)  # the end token has the largest id
        places = torch.arange(1, rows.shape[1] + 1, device=rows.device)
        used = ((rows != self._padding) * places).amax(dim=1)  # (n,) tokens before the padding
        if self._end == self._padding:  # as in SigLIP: the first token of the padding ends a text
            return used.clamp(max=rows.shape[1] - 1)
        return used - 1


class ClassPrompts(nn.Module):
    """K class prompts of l learnt tokens each (PixelCLIP, arXiv:2409.19846, sec. 3.3).

    The tokens stand in a template in place of a class name, "A photo of a [l tokens] in the scene",
    and go through the frozen text tower; gradients reach the tokens only. With several templates
    the feature is the mean of the unit features under each.

    Args:
        text: the frozen tower.
        tokens: (K, l, d_e) embeddings to start from; see `vocabulary_tokens` and `name_tokens`.
        templates: sentences with one `{}`.
        learnt: whether the tokens train.

    Raises:
        ValueError: `tokens` is not (K, l, d_e), there is no template or one without one `{}`, or
            the text is longer than the context.
    """

    def __init__(
        self,
        text: TextTower,
        tokens: Tensor,
        *,
        templates: Sequence[str] = (TEMPLATE,),
        learnt: bool = True,
    ) -> None:
        super().__init__()
        if tokens.ndim != 3 or tokens.shape[2] != text.width or not tokens.numel():
            raise ValueError(
                f"tokens must be (K, l, {text.width}), none of them 0, got {tuple(tokens.shape)}"
            )
        if not templates:
            raise ValueError("class prompts need at least one template, got none")
        self._text = (text,)  # in a tuple, so that it does not become a submodule
        self.clusters = len(tokens)
        self.tokens = nn.Parameter(tokens.detach().clone(), requires_grad=learnt)  # (K, l, d_e)
        self._frames = [text.around(template) for template in templates]
        length = max(self._lengths())
        if length > text.context:
            raise ValueError(
                f"a class prompt must have at most {text.context} tokens with its template, "
                f"got {length}"
            )

    def embeddings(self) -> tuple[Tensor, Tensor]:
        """Texts of all class prompts under all templates, for the tower.

        Returns:
            embeddings: (R K, T, d_e), template by template, padded at the end.
            last: (R K,) int64, the place of the end token.
        """
        lengths = self._lengths()
        longest = max(lengths)
        texts = [
            F.pad(self._text_of(frame), (0, 0, 0, longest - length))  # (K, T, d_e)
            for frame, length in zip(self._frames, lengths, strict=True)
        ]
        last = torch.tensor(lengths, device=self.tokens.device) - 1  # (R,)
        return torch.cat(texts), last.repeat_interleave(self.clusters)

    def _lengths(self) -> list[int]:
        """Tokens of a class prompt under each template."""
        return [len(before) + self.tokens.shape[1] + len(after) for before, after in self._frames]

    def _text_of(self, frame: tuple[list[int], list[int]]) -> Tensor:
        """(K, T, d_e) embeddings of the class prompts under one template."""
        around = [
            self._text[0]
            .embed(torch.tensor(part, device=self.tokens.device))
            .expand(self.clusters, -1, -1)
            for part in frame
        ]
        return torch.cat([around[0], self.tokens, around[1]], dim=1)

    def forward(self) -> Tensor:
        """(K, D) unit rows; gradients go to `tokens`."""
        rows = F.normalize(self._text[0](*self.embeddings()), dim=-1)  # (R K, D)
        if len(self._frames) == 1:
            return rows
        return F.normalize(rows.view(-1, self.clusters, rows.shape[-1]).mean(dim=0), dim=-1)


class DirectPrompts(nn.Module):
    """K learnt rows of the joint space, without a text tower (PixelCLIP, the ablation of table 3).

    Args:
        rows: (K, D) to start from, of any length.

    Raises:
        ValueError: `rows` is not (K, D).
    """

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        _check_rows(rows)
        self.clusters = len(rows)
        self.rows = nn.Parameter(rows.detach().clone())  # (K, D)

    def forward(self) -> Tensor:
        """(K, D) unit rows."""
        return F.normalize(wide(self.rows), dim=-1)


class FixedPrompts(nn.Module):
    """K rows that do not change, such as the features of class names.

    Args:
        rows: (K, D), of any length.

    Raises:
        ValueError: `rows` is not (K, D).
    """

    rows: Tensor

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        _check_rows(rows)
        self.clusters = len(rows)
        self.register_buffer("rows", F.normalize(wide(rows.detach()), dim=-1))  # (K, D)

    def forward(self) -> Tensor:
        """(K, D) unit rows."""
        return self.rows


def vocabulary_tokens(
    text: TextTower, clusters: int, tokens: int, *, generator: torch.Generator
) -> Tensor:
    """Embeddings (K, l, d_e) of random words, drawn uniformly from [0, vocabulary - 10).

    Args:
        text: the tower whose words they are.
        clusters: K.
        tokens: l.
        generator: on the CPU.
    """
    ids = torch.randint(
        text.vocabulary - _LAST_WORDS, (clusters, tokens), generator=generator
    )  # (K, l)
    return text.embed(ids.to(text.device)).detach()


def name_tokens(text: TextTower, names: Sequence[str], tokens: int) -> Tensor:
    """Embeddings (K, l, d_e) of class names, to start class prompts from.

    A name of fewer tokens is repeated until there are l, of a longer one the first l are taken.

    Args:
        text: the tower.
        names: K.
        tokens: l.

    Raises:
        ValueError: a name has no tokens.
    """
    rows = []
    for name in names:
        ids = text.words(name)
        if not ids:
            raise ValueError(f"a class name must have at least one token, got {name!r}")
        rows.append([ids[i % len(ids)] for i in range(tokens)])
    return text.embed(torch.tensor(rows, device=text.device)).detach()


@torch.no_grad()
def name_rows(text: TextTower, names: Sequence[str], templates: Sequence[str]) -> Tensor:
    """Features (K, D) of class names: the mean of unit rows over templates, of unit length.

    Args:
        text: the tower.
        names: K.
        templates: sentences with one `{}`.
    """
    ids = text.tokenizer([template.format(name) for template in templates for name in names])
    rows = F.normalize(text.read(ids), dim=-1)  # (R K, D)
    return F.normalize(rows.view(-1, len(names), rows.shape[-1]).mean(dim=0), dim=-1)


def _check_rows(rows: Tensor) -> None:
    if rows.ndim != 2 or not rows.numel():
        raise ValueError(f"prompts must be (K, D), none of them 0, got {tuple(rows.shape)}")


def _checked_pool(model: nn.Module, parts: Any) -> str:
    """Where a text tower is read: "argmax", at the largest id, or "last", at its last position.

    Raises:
        ValueError: it is one that class prompts cannot go through.
    """
    if not hasattr(parts, "token_embedding"):
        raise ValueError(f"the text tower must be open_clip's own, got {type(parts).__name__}")
    if getattr(parts, "cls_emb", None) is not None:
        raise ValueError("a text tower that ends in a class token (CoCa) has no class prompts yet")
    if getattr(parts, "use_pad_mask", False):
        raise ValueError("a text tower that masks padding has no class prompts yet")
    pool = getattr(parts, "pool_type", None) or getattr(model, "text_pool_type", None)
    if pool not in ("argmax", "last"):
        raise ValueError(
            f"a text must be read at its end or at the last position, got a tower that pools {pool}"
        )
    return str(pool)
