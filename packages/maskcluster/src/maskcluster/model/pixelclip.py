"""PixelCLIP: a CLIP model, its momentum teacher, class prompts and the decoder, and one step."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from maskcluster.config import ClusterConfig, MachineConfig, ModelConfig, OptimConfig
from maskcluster.model.clip import Clip, load_clip
from maskcluster.model.clustering import Assignment, assign_masks
from maskcluster.model.decoder import MaskDecoder
from maskcluster.model.dense import DenseTower
from maskcluster.model.losses import LossAt, cluster_loss, mask_by_mask_loss, mean_over_ranks
from maskcluster.model.prompts import (
    TEMPLATE,
    TEMPLATES,
    ClassPrompts,
    DirectPrompts,
    FixedPrompts,
    TextTower,
    name_rows,
    name_tokens,
    vocabulary_tokens,
)
from maskcluster.model.teacher import MomentumTeacher
from maskcluster.model.trainable import choose_trainable, parameter_groups
from maskcluster.ops.mask_pool import mask_pool

Assign = Callable[..., Assignment]
"""`assign_masks` with its options: (pooled, prompts, *, group) -> Assignment."""

_PUBLISHED: Assign = partial(assign_masks, eps=0.01, iterations=3, balance=True)
"""For ViT."""


@dataclass(frozen=True, kw_only=True)
class StepOutput:
    """What one step gives."""

    loss: Tensor
    """() to go backward from. Over several ranks their mean is the loss."""

    terms: Tensor
    """() int64, what this rank's loss is the mean over: covered pixels times clusters."""

    area: Tensor
    """(M,) float32, pixels of each mask."""

    assignment: Assignment | None
    """Clusters of this rank's masks; None without clustering."""


class PixelCLIP(nn.Module):
    """A CLIP model that learns to segment from unlabelled masks (arXiv:2409.19846).

    A step, for images with a weak and a strong view of the same crop:

        f_M   = mean of the teacher's features of the weak view under each mask
        c     = the cluster of each mask: balanced assignment of f_M to the class prompts f_C
        M_IC  = cosines of the student's features of the strong view with f_C, for each cluster
        loss  = BCE of the decoded M_IC against the union of the masks of each cluster

    Gradients reach the image tower, the class prompts and the decoder through M_IC only.

    Args:
        clip: the model; it is used, not copied, and only its image tower changes.
        prompts: `ClassPrompts`, `DirectPrompts` or `FixedPrompts`; None predicts every mask from
            its own pooled feature, without clustering.
        assign: how masks are assigned to prompts; takes (M, D) pooled features, (K, D) prompts and
            `group`.
        decoder: from cosines to logits.
        last_block: see `DenseTower`.
        trainable: see `choose_trainable`.
        momentum: of the teacher.
        loss_at: see `cluster_loss`.

    Raises:
        ValueError: a tower or a choice that is not supported.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        clip: Clip,
        prompts: nn.Module | None,
        *,
        assign: Assign = _PUBLISHED,
        decoder: MaskDecoder | None = None,
        last_block: Literal["pixelclip", "maskclip", "none"] = "pixelclip",
        trainable: Literal["attention", "all"] = "attention",
        momentum: float = 0.999,
        loss_at: LossAt = "masks",
    ) -> None:
        super().__init__()
        self.clip = clip.model.requires_grad_(False)
        tower = DenseTower(_visual(clip), last_block=last_block)
        choose_trainable(tower, trainable)
        self._tower = (tower,)  # a view of self.clip.visual: in a tuple, so that it is not stored
        self.teacher = MomentumTeacher(tower, momentum)
        self.prompts = prompts
        self.decoder = MaskDecoder() if decoder is None else decoder
        self.assign = assign
        self.loss_at = loss_at
        self.tokenizer = clip.tokenizer
        for name, values in (("mean", clip.mean), ("std", clip.std)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    @classmethod
    def from_config(
        cls,
        model: ModelConfig,
        cluster: ClusterConfig,
        machine: MachineConfig | None = None,
        *,
        seed: int = 0,
        clip: Clip | None = None,
        start: Tensor | None = None,
    ) -> "PixelCLIP":
        """Build the model of a recipe with its first weights.

        Args:
            model: the CLIP model, and what of it is tuned.
            cluster: prompts, assignment and teacher.
            machine: time against memory.
            seed: of class prompts, decoder and random CLIP weights.
            clip: the CLIP model, in place of loading what `model` names.
            start: what prompts start from: (K, l, d_e) token embeddings of learnt or frozen ones,
                (K, D) rows of direct ones, or of fixed ones in place of class names.

        Raises:
            RecipeError, DataError: as of `load_clip`.
            ValueError: parts that do not fit together.
        """
        machine = MachineConfig() if machine is None else machine
        clip = clip or load_clip(model.architecture, model.pretrained, seed=seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            decoder = MaskDecoder(
                model.decoder_width,
                chunk=machine.decoder_chunk,
                recompute=machine.recompute_decoder,
            )
        built = cls(
            clip,
            build_prompts(clip, cluster, seed=seed, start=start),
            assign=partial(
                assign_masks,
                eps=cluster.eps,
                iterations=cluster.iterations,
                balance=cluster.balance,
            ),
            decoder=decoder,
            last_block=model.last_block,
            trainable=model.trainable,
            momentum=cluster.momentum,
            loss_at=model.loss_at,
        )
        built.tower.recompute = machine.recompute_tower
        return built

    @property
    def tower(self) -> DenseTower:
        """The student: dense features of `clip.visual`."""
        return self._tower[0]

    def normalise(self, images: Tensor) -> Tensor:
        """Colours as the CLIP model was trained on.

        Args:
            images: (B, 3, H, W) RGB: uint8, or floating point in [0, 1].

        Returns:
            (B, 3, H, W) in the type of the model's constants, or of floating images.
        """
        if not images.is_floating_point():
            images = images.to(self.mean.dtype) / 255
        return (images - self.mean) / self.std

    def features(self, images: Tensor) -> Tensor:
        """Dense features of the student.

        Args:
            images: as of `normalise`; sides are multiples of `tower.stride`.

        Returns:
            (B, D, h, w) float32, not of unit length.
        """
        return self.tower(self.normalise(images))  # type: ignore[no-any-return]  # nn.Module

    def update_teacher(self) -> None:
        """Move the teacher towards the student: once a step, before the loss."""
        self.teacher.update(self.tower)

    def compile_parts(self, *, backend: str = "inductor") -> None:
        """Compile student, teacher and decoder, each as one graph, when they are called first."""
        for part in (self.tower, self.teacher.tower, self.decoder):
            part.compile(fullgraph=True, backend=backend)

    def parameter_groups(self, config: OptimConfig) -> list[dict[str, Any]]:
        """Groups of parameters for AdamW; see `maskcluster.model.trainable.parameter_groups`."""
        return parameter_groups(self.tower.visual, self.prompts, self.decoder, config)

    def forward(
        self,
        weak: Tensor,
        strong: Tensor,
        packed: Tensor,
        owner: Tensor,
        *,
        group: ProcessGroup | None = None,
    ) -> StepOutput:
        """Compute the loss of a batch.

        Args:
            weak: (B, 3, H, W) views for the teacher, as of `normalise`.
            strong: (B, 3, H, W) views for the student.
            packed: (M, S, S // 8) uint8, masks of all images as bits, on the grid of the crop.
            owner: (M,) int64 in [0, B), not decreasing. Images may have no masks, and so may the
                batch: its loss is then 0.
            group: ranks that share the batch; None for a process alone.

        Returns:
            The loss and what it was computed from.
        """
        pooled, area = mask_pool(self.teacher(self.normalise(weak)), packed, owner)  # (M, D), (M,)
        features = self.features(strong)  # (B, D, h, w)
        if self.prompts is None:
            total, terms = self._loss_by_mask(features, pooled, packed, owner)
            assignment = None
        else:
            prompts = self.prompts()  # (K, D)
            with torch.no_grad():
                assignment = self.assign(pooled, prompts.detach(), group=group)
            logits = self.decoder(cosines(features, prompts))  # (B, K, y, x)
            total, pixels = cluster_loss(logits, packed, owner, assignment.cluster, at=self.loss_at)
            terms = pixels * len(prompts)
        loss = mean_over_ranks(total, terms, group)
        return StepOutput(loss=loss, terms=terms, area=area, assignment=assignment)

    def _loss_by_mask(
        self, features: Tensor, pooled: Tensor, packed: Tensor, owner: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Loss of maps that every mask's own pooled feature gives (M_IM, the paper's table 3)."""
        if not len(pooled):  # one map of zeros, so that all parameters have a gradient on all ranks
            blank = cosines(features[:1], features.new_zeros(1, features.shape[1]))
            return self.decoder(blank).sum() * 0, owner.sum()
        counts = owner.bincount(minlength=len(features)).tolist()
        maps = [
            cosines(image[None], rows)[0]  # (N_b, h, w)
            for image, rows in zip(features, torch.split(pooled, counts), strict=True)
        ]
        logits = self.decoder(torch.cat(maps)[None])[0]  # (M, y, x)
        return mask_by_mask_loss(logits, packed, counts, at=self.loss_at)


def cosines(features: Tensor, rows: Tensor) -> Tensor:
    """Cosine of every place with every row, in float32 at least.

    Args:
        features: (B, D, h, w).
        rows: (K, D).

    Returns:
        (B, K, h, w) in [-1, 1].
    """
    with torch.autocast(features.device.type, enabled=False):
        unit = F.normalize(features, dim=1)  # (B, D, h, w)
        return torch.einsum("kd,bdhw->bkhw", F.normalize(rows.to(unit.dtype), dim=1), unit)


def build_prompts(
    clip: Clip, config: ClusterConfig, *, seed: int = 0, start: Tensor | None = None
) -> nn.Module | None:
    """Build the prompts of a recipe; None without clustering.

    Args:
        clip: the model whose text tower they go through.
        config: what prompts are and where they start.
        seed: of those that start at random.
        start: what they start from, in place of what `config` says; see `PixelCLIP.from_config`.

    Raises:
        ValueError: `start` has another shape, or a text tower that cannot take prompts.
    """
    if config.targets == "masks":
        return None
    if start is not None and len(start) != config.clusters:
        raise ValueError(f"start must be of {config.clusters} clusters, got {len(start)}")
    generator = torch.Generator().manual_seed(seed)
    if config.prompts == "direct":
        return DirectPrompts(_random_rows(clip, config, generator) if start is None else start)
    text = TextTower(clip)
    templates = (TEMPLATE,) if config.templates == "single" else TEMPLATES
    if config.prompts == "names":
        return FixedPrompts(name_rows(text, config.names, templates) if start is None else start)
    if start is not None:
        tokens = start
    elif config.start == "names":
        tokens = name_tokens(text, config.names, config.tokens)
    else:
        tokens = vocabulary_tokens(text, config.clusters, config.tokens, generator=generator)
    return ClassPrompts(text, tokens, templates=templates, learnt=config.prompts == "learnt")


def _random_rows(clip: Clip, config: ClusterConfig, generator: torch.Generator) -> Tensor:
    """(K, D) rows drawn from a normal distribution."""
    visual = _visual(clip)
    weight = next(visual.parameters())
    tower = DenseTower(visual)
    with torch.no_grad():
        width = tower(weight.new_zeros(1, 3, *tower.stride)).shape[1]
    return torch.randn(config.clusters, width, generator=generator).to(weight)


def _visual(clip: Clip) -> nn.Module:
    visual = clip.model.visual
    assert isinstance(visual, nn.Module)
    return visual


def clip_of(model: PixelCLIP) -> Clip:
    """The CLIP model inside, tuned as it is."""
    mean, std = (tuple(row.flatten().tolist()) for row in (model.mean, model.std))
    return Clip(model=model.clip, tokenizer=model.tokenizer, mean=mean, std=std)
