"""GroupViT: both towers, the projectors into one space, and the logit scales."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from groupvit.config import ModelConfig
from groupvit.model.layers import run
from groupvit.model.losses import contrastive, multi_label_contrastive
from groupvit.model.noise import drawn_noise, noise_from
from groupvit.model.ranks import BatchNorm
from groupvit.model.text import TextTower
from groupvit.model.vision import Stage, VisionOutput, VisionTower
from groupvit.precision import wide
from groupvit.texts import Texts

INITIAL_SCALE = math.log(1 / 0.07)
MAX_SCALE = 100.0


class Projector(nn.Module):
    """Linear, batch norm, ReLU, linear over rows (GroupViT, sec. 3.2)."""

    def __init__(self, dim: int, hidden: int, out: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(dim, hidden)
        self.norm = BatchNorm(hidden)
        self.out = nn.Linear(hidden, out)

    def forward(self, rows: Tensor) -> Tensor:
        """(n, dim) -> (n, out)."""
        return self.out(F.relu(self.norm(self.hidden(rows))))  # type: ignore[no-any-return]  # nn.Module


class GroupViT(nn.Module):
    """Image and text towers that meet in one space (GroupViT, arXiv:2202.11094).

    Args:
        config: sizes of everything; the default is the published model, 55.7 M parameters.
    """

    chunk: int = 0
    """Pairs whose activations are kept at a time in training; the towers run again, part by part,
    in the backward pass, and batch norm and losses see the whole batch (GradCache,
    arXiv:2101.06983). 0 keeps all."""

    group: ProcessGroup | None = None
    """The ranks that share a batch; see `distribute`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.vision = VisionTower(config.vision)
        self.text = TextTower(config.text)
        self.image_projector = _projector(config.vision.width, config)
        self.text_projector = _projector(config.text.width, config)
        self.logit_scale = nn.Parameter(torch.tensor(INITIAL_SCALE))
        self.multi_label_logit_scale = (
            nn.Parameter(torch.tensor(INITIAL_SCALE)) if config.multi_label_scale else None
        )

    def distribute(self, group: ProcessGroup | None) -> None:
        """Take batches as parts of a global one: losses and batch norm go over all ranks."""
        self.group = group
        for module in self.modules():
            if isinstance(module, BatchNorm):
                module.group = group

    def recompute(self, *, wanted: bool) -> None:
        """Keep only the inputs of transformer blocks and run them again in the backward pass."""
        self.text.checkpointed = wanted
        for stage in self.vision.stages:
            assert isinstance(stage, Stage)
            stage.checkpointed = wanted

    def compile_towers(self, *, backend: str = "inductor") -> None:
        """Compile both towers, each as one graph, when they are called first (`torch.compile`)."""
        self.vision.compile(fullgraph=True, backend=backend)
        self.text.compile(fullgraph=True, backend=backend)

    def forward(
        self, images: Tensor, texts: Texts, noise: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Losses of a batch: caption InfoNCE and, with prompts, the multi-label loss.

        Args:
            images: (B, 3, H, W), normalised.
            texts: (B, 1 + L), the caption and L prompted concepts of each pair.
            noise: (2,) int64, seed of the step and number of the first pair in the global batch,
                see `step_noise`; None draws a seed from PyTorch's generator.

        Returns:
            `caption_loss` and, for L > 0, `multi_label_loss`: scalars to be added. Over several
            ranks they are of this rank's pairs; their mean over ranks is the loss.
        """
        image = F.normalize(wide(self.image_projector(self._pooled(images, noise))), dim=-1)
        words = F.normalize(wide(self.encode_text(texts)), dim=-1)  # (B (1 + L), D)
        return self._losses(image, words.view(*texts.shape, -1))

    def _pooled(self, images: Tensor, noise: Tensor | None) -> Tensor:
        """(B, C) pooled features of images, part by part if there is a `chunk`."""
        if noise is None:
            noise = drawn_noise(images.device)
        if not self._in_chunks(len(images)):
            return self.vision(images, noise).pooled  # type: ignore[no-any-return]  # nn.Module

        def pooled(part: Tensor, noise: Tensor) -> Tensor:
            return self.vision(part, noise).pooled  # type: ignore[no-any-return]  # nn.Module

        parts = [
            run(pooled, part, noise_from(noise, i * self.chunk), checkpointed=True)
            for i, part in enumerate(torch.split(images, self.chunk))
        ]
        return torch.cat(parts)

    def _in_chunks(self, count: int) -> bool:
        return self.training and 0 < self.chunk < count

    def _losses(self, image: Tensor, texts: Tensor) -> dict[str, Tensor]:
        """Float32 losses of (B, D) images and (B, 1 + L, D) texts, unit rows.

        Under autocast on a GPU rows are rounded to its type; similarities and sums never are.
        """
        if image.is_cuda and torch.is_autocast_enabled("cuda"):
            half = torch.get_autocast_dtype("cuda")
            image, texts = image.to(half), texts.to(half)
        with torch.autocast(image.device.type, enabled=False):
            losses = {"caption_loss": contrastive(image, texts[:, 0], self.scale, self.group)}
            if texts.shape[1] > 1:
                scale = self.multi_label_scale
                if scale is None:
                    raise ValueError("prompted concepts need a model with multi_label_scale = true")
                losses["multi_label_loss"] = multi_label_contrastive(
                    image, texts[:, 1:], scale, self.group
                )
        return losses

    @property
    def scale(self) -> Tensor:
        """Factor on cosine similarity, at most 100."""
        return self.logit_scale.exp().clamp(max=MAX_SCALE)

    @property
    def multi_label_scale(self) -> Tensor | None:
        """The same of the multi-label loss, if the model has one."""
        if self.multi_label_logit_scale is None:
            return None
        return self.multi_label_logit_scale.exp().clamp(max=MAX_SCALE)

    def encode_text(self, texts: Texts) -> Tensor:
        """Read n texts: (n, D), in their order, not normalised.

        Raises:
            ValueError: a text is longer than the context.
        """
        if texts.longest > self.config.text.context:
            raise ValueError(
                f"texts must have at most {self.config.text.context} tokens, got {texts.longest}; "
                "cut them and end them with the end-of-text token"
            )
        rows = (texts.tokens, texts.positions, texts.owners)
        if not torch.compiler.is_compiling():
            for each in rows:
                torch._dynamo.maybe_mark_dynamic(each, 0)  # not every count is compiled anew
        pairs = texts.shape[0]
        if self._in_chunks(pairs):
            share = max(len(texts.tokens) * self.chunk // pairs, 1)  # rows of `chunk` pairs
            parts = zip(*(torch.split(each, share) for each in rows), strict=True)
            states = torch.cat([run(self.text, *part, checkpointed=True) for part in parts])
        else:
            states = self.text(*rows)  # (R, T, C)
        return self.text_projector(self.text.pick(states, texts.ends))  # type: ignore[no-any-return]  # nn.Module

    def encode_image(self, images: Tensor) -> tuple[Tensor, Tensor, VisionOutput]:
        """See images and their segments in the shared space.

        Args:
            images: (B, 3, H, W), normalised.

        Returns:
            image: (B, D), not normalised.
            groups: (B, G, D), not normalised; the projection of each segment.
            seen: the output of the image tower, with the assignments.
        """
        seen = self.vision(images)
        groups = self.image_projector(seen.groups.flatten(0, 1))  # (B G, D)
        return self.image_projector(seen.pooled), groups.unflatten(0, seen.groups.shape[:2]), seen


def _projector(dim: int, config: ModelConfig) -> nn.Module:
    if config.projector == "linear":
        return nn.Linear(dim, config.embed_dim)
    return Projector(dim, config.projector_hidden, config.embed_dim)
