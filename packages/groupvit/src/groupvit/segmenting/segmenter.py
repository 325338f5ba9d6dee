"""Zero-shot use of a trained model: pixels and pictures take the names that they resemble."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from groupvit.data.augment import normalise
from groupvit.data.prompts import SIMPLE
from groupvit.model.groupvit import GroupViT
from groupvit.ops.segment_decode import segment_decode
from groupvit.precision import Precision, wants_bfloat16
from groupvit.segmenting.bank import encode_classes, encode_prompts
from groupvit.segmenting.classify import Ranking, centre_crop, rank_classes
from groupvit.segmenting.decode import class_scores, merge_labels, with_background
from groupvit.segmenting.windows import Cut, Photo, Windowing, as_planes

CROPS = 16
"""Crops that the image tower sees at once, to bound memory."""

BACKGROUND_THRESHOLDS = {"voc": 0.95, "context": 0.35, "coco": 0.95}
"""Thresholds that the release evaluates with, by data set. The paper's text has 0.9 for Pascal VOC
and 0.5 for Pascal Context."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What the image tower makes of B crops; everything is float32."""

    image: Tensor
    """(B, D), not normalised."""
    groups: Tensor
    """(B, G, D), not normalised."""
    assignments: tuple[Tensor, ...]
    """(B, G_s, N_s) soft map of every grouping stage."""
    grid: tuple[int, int]
    """(h, w) patches N_0."""


class GroupViTSegmenter:
    """A trained GroupViT as a segmenter and as a classifier.

    Args:
        model: the model; it is put in evaluation mode.
        name: what result tables call it.
        precision: of both towers; what follows them is float32. `auto` is bfloat16 where the device
            multiplies bfloat16 matrices in hardware, float32 elsewhere.
    """

    def __init__(
        self, model: GroupViT, *, name: str = "groupvit", precision: Precision = "auto"
    ) -> None:
        wants_bfloat16(precision, torch.device("cpu"))  # raises for an unknown one
        self.model = model.eval()
        self.precision = precision
        self._name = name

    @property
    def name(self) -> str:
        """What result tables call it."""
        return self._name

    @torch.inference_mode()
    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """(n, D) float32 projections of prompts, not normalised.

        Raises:
            CheckpointError: the model does not read CLIP's tokens.
            ValueError: no prompt.
        """
        with self._autocast():
            return encode_prompts(self.model, prompts)

    @torch.inference_mode()
    def encode_classes(self, names: Sequence[str], templates: Sequence[str] = SIMPLE) -> Tensor:
        """Text bank of classes: projections averaged over templates, then normalised.

        Args:
            names: of K classes; the end of a very long one is not read, which a warning says.
            templates: with one `{}` each.

        Returns:
            (K, D) float32 unit rows.

        Raises:
            CheckpointError: the model does not read CLIP's tokens.
            ValueError: no name, a blank name, no template, or a template without `{}`.
        """
        with self._autocast():
            return encode_classes(self.model, names, templates)

    @torch.inference_mode()
    def segment(self, image: Tensor, bank: Tensor) -> Tensor:
        """Score every pixel for every class (GroupViT, sec. 3.3, as its release decodes).

            g(p) = argmax over groups of the rolled-up soft map, resized to the image
            S    = softmax_K(Z | the 5 best classes of the image) * softmax_K(Z),  Z = s F T^T

        Args:
            image: (3, H, W) float32 RGB in [0, 1].
            bank: (K, D) unit rows T.

        Returns:
            (K, H, W) float32 in [0, 1]: row S[g(p)] of the group that owns pixel p. Windows and a
            background, if the task has them, are the caller's; `label` does both.
        """
        groups, scores = self.groups(image, bank)
        return scores.mT.index_select(1, groups.flatten()).view(-1, *groups.shape)  # (K, H, W)

    @torch.inference_mode()
    def groups(self, image: Tensor, bank: Tensor) -> tuple[Tensor, Tensor]:
        """Which group owns a pixel, and how each group scores each class.

        Args:
            image: (3, H, W) float32 RGB in [0, 1].
            bank: (K, D) unit rows.

        Returns:
            groups: (H, W) int64 in [0, G).
            scores: (G, K) float32 S of `segment`.
        """
        bank, planes = self._checked(bank), as_planes(image)
        sight = self._see(planes[None])
        scores = class_scores(sight.image, sight.groups, bank, self.model.scale)  # (1, G, K)
        return _own_groups(sight, planes.shape[1:])[0].long(), scores[0]

    def label(
        self,
        image: Tensor | Photo,
        bank: Tensor,
        *,
        background: float | None = None,
        window_px: int | None = 448,
        stride_px: int = 224,
        short_px: int = 448,
        long_px: int = 2048,
    ) -> Tensor:
        """Label every pixel of a picture of any size (GroupViT's evaluation, as its release does).

        The picture is resized, windows are decoded one by one, their scores are averaged where they
        overlap and resized to the picture's own size, and the best channel wins. The release
        resizes pictures in 8 bits with OpenCV; here they are not rounded.

        Args:
            image: RGB, an array (H, W, 3) of uint8 such as `open_photo` gives, or a tensor
                (3, H, W) of floating point in [0, 1] or of uint8.
            bank: (K, D) unit rows.
            background: a group whose best score is below this and below the best of its window is
                background, in [0, 1]; `BACKGROUND_THRESHOLDS` has the published ones. None: there
                is no background.
            window_px: side of a window; None looks at the whole picture at once.
            stride_px: from one window to the next.
            short_px: short side of the resized picture.
            long_px: longest side of the resized picture, whatever its short side becomes.

        Returns:
            (H, W) int32: without background the class k; with background 0 for it, k + 1 for
            class k. The lowest wins a tie.

        Raises:
            ValueError: something is out of range or of the wrong shape.
        """
        (labels,) = self.label_batch(
            [image],
            bank,
            background=background,
            window_px=window_px,
            stride_px=stride_px,
            short_px=short_px,
            long_px=long_px,
        )
        return labels

    def label_batch(
        self,
        images: Iterable[Tensor | Photo],
        bank: Tensor,
        *,
        background: float | None = None,
        window_px: int | None = 448,
        stride_px: int = 224,
        short_px: int = 448,
        long_px: int = 2048,
    ) -> Iterator[Tensor]:
        """Label several pictures; see `label`.

        Windows of the same size are seen together, across pictures. A picture is taken from
        `images` when it is needed, at most `CROPS` windows ahead of the labels.

        Yields:
            (H, W) int32 of every picture, in order.
        """
        if background is not None and not 0 <= background <= 1:
            raise ValueError(f"background must be in [0, 1], got {background}")
        plan = Windowing(
            window_px=window_px, stride_px=stride_px, short_px=short_px, long_px=long_px
        )
        patch_px = self.model.config.vision.patch_px
        cuts = (plan.cut(image, patch_px) for image in images)
        return self._label_cuts(cuts, self._checked(bank), background)

    def _label_cuts(
        self, cuts: Iterable[Cut], bank: Tensor, background: float | None
    ) -> Iterator[Tensor]:
        for some in _alike(cuts):
            yield from self._label_alike(some, bank, background)

    @torch.inference_mode()
    def _label_alike(
        self, cuts: Sequence[Cut], bank: Tensor, background: float | None
    ) -> list[Tensor]:
        """(H, W) int32 labels of pictures whose crops have one size."""
        crops = torch.cat([cut.crops for cut in cuts])  # (n, 3, y, x)
        parts = [self._decode(part, bank, background) for part in torch.split(crops, CROPS)]
        groups, tables = (torch.cat(column) for column in zip(*parts, strict=True))
        counts = [len(cut.crops) for cut in cuts]
        pictures = zip(torch.split(groups, counts), torch.split(tables, counts), cuts, strict=True)
        return [merge_labels(*picture) for picture in pictures]

    def _decode(
        self, crops: Tensor, bank: Tensor, background: float | None
    ) -> tuple[Tensor, Tensor]:
        """(B, y, x) int32 group of every pixel of some crops, and (B, G, C) scores of groups."""
        sight = self._see(crops)
        table = class_scores(sight.image, sight.groups, bank, self.model.scale)  # (B, G, K)
        if background is not None:
            table = with_background(table, background)
        return _own_groups(sight, crops.shape[2:]), table

    @torch.inference_mode()
    def group_maps(
        self, image: Tensor | Photo, *, short_px: int = 448, long_px: int = 2048
    ) -> tuple[Tensor, ...]:
        """Which group of each stage owns a pixel of the whole resized picture, unnamed.

        Args:
            image: RGB, as for `label`.
            short_px: short side of the resized picture.
            long_px: longest side of the resized picture.

        Returns:
            (H', W') int32 of every grouping stage, at the resized size: 64, then 8 groups for the
            published model.
        """
        whole = Windowing(window_px=None, short_px=short_px, long_px=long_px)
        cut = whole.cut(image, self.model.config.vision.patch_px)
        sight = self._see(cut.crops)
        stages = range(1, len(sight.assignments) + 1)
        return tuple(_own_groups(sight, cut.size, stages=count)[0] for count in stages)

    @torch.inference_mode()
    def classify(self, images: Sequence[Tensor | Photo], bank: Tensor, *, k: int = 5) -> Ranking:
        """Name whole pictures: the k classes nearest to the image vector.

            p = softmax(s a T^T)

        Args:
            images: n pictures of any sizes, as for `label`; the middle square of each is looked
                at.
            bank: (K, D) unit rows T.
            k: how many classes; all if there are fewer.

        Returns:
            Classes and probabilities, (n, min(k, K)), best first.

        Raises:
            ValueError: no image, k < 1, or something of the wrong shape.
        """
        if k < 1 or not len(images):
            raise ValueError(f"needs an image and k >= 1, got {len(images)} images and k = {k}")
        bank = self._checked(bank)
        side = self.model.config.vision.image_px
        crops = torch.stack([centre_crop(image, side) for image in images])  # (n, 3, side, side)
        seen = torch.cat([self._see(part).image for part in torch.split(crops, CROPS)])  # (n, D)
        return rank_classes(seen, bank, self.model.scale, k)

    def _see(self, crops: Tensor) -> Sight:
        """Run the image tower on (B, 3, H, W) crops in [0, 1]."""
        if self.model.training:
            raise ValueError("the model is in training mode; call model.eval() before it segments")
        batch = normalise(crops.to(self._device, torch.float32))  # (B, 3, H, W)
        with self._autocast():
            image, groups, seen = self.model.encode_image(batch)
        return Sight(image.float(), groups.float(), seen.assignments, seen.grid)

    def _checked(self, bank: Tensor) -> Tensor:
        """The bank on the device of the model."""
        bank = torch.as_tensor(bank)
        if bank.ndim != 2 or not len(bank) or bank.shape[1] != self.model.config.embed_dim:
            raise ValueError(
                f"bank must be (K, {self.model.config.embed_dim}) with K >= 1, "
                f"got {tuple(bank.shape)}"
            )
        return bank.to(self._device, torch.float32)

    def _autocast(self) -> torch.autocast:
        enabled = wants_bfloat16(self.precision, self._device)
        return torch.autocast(self._device.type, torch.bfloat16, enabled=enabled)

    @property
    def _device(self) -> torch.device:
        return self.model.logit_scale.device


def _own_groups(sight: Sight, size: Sequence[int], *, stages: int | None = None) -> Tensor:
    """(B, H, W) int32 group of every pixel, after some stages or all of them."""
    assignments = sight.assignments[:stages]
    batch, count = assignments[-1].shape[:2]
    own = torch.arange(count, dtype=torch.int32, device=sight.image.device)  # (G,)
    height, width = size
    return segment_decode(assignments, own.expand(batch, -1), sight.grid, (height, width))


def _alike(cuts: Iterable[Cut]) -> Iterator[list[Cut]]:
    """Runs of pictures whose crops have one size, up to the first with `CROPS` of them."""
    run: list[Cut] = []
    for cut in cuts:
        if run and cut.crops.shape[1:] != run[0].crops.shape[1:]:
            yield run
            run = []
        run.append(cut)
        if sum(len(one.crops) for one in run) >= CROPS:
            yield run
            run = []
    if run:
        yield run
