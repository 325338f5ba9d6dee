"""Tasks that classify whole images: a data set under a protocol, and what a model gets to see."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from segbench.datasets import IMAGE_OPTIONS, check_spec
from segbench.errors import FormatError, unknown
from segbench.protocols.bank import Averaging, build_bank
from segbench.protocols.bank_cache import cached_bank
from segbench.protocols.task import (
    Task,
    combine,
    parse_task,
    parsed_toml,
    task_fields,
    task_text,
)
from segbench.segmenter import Classifier
from segbench.words import load_names, load_templates

Resampling = Literal["bilinear", "bicubic"]
_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassificationTask:
    """A data set whose images have one label each, under a protocol.

    Raises:
        FormatError: a value is out of range, or an option of the data set is unknown.
    """

    id: str
    """`<data set>@<protocol>`."""

    dataset: Mapping[str, Any]
    """`kind` of data set and its options (`segbench.datasets.IMAGE_OPTIONS`)."""

    version: int = 1
    """Raised whenever a choice below changes, so that old results are not compared with new."""

    summary: str = ""
    """One line for `segbench ls`; not part of the hash."""

    short_px: int = 224
    """Resize the short side to this, keeping the ratio ..."""

    crop_px: int = 224
    """... and cut a square of this side out of the middle; at most `short_px`."""

    sized_by_model: bool = False
    """Cut the square that the model was trained on, where it says so (`image_px`), and resize in
    proportion: another size than 224 is then the model's, not the protocol's."""

    resampling: Resampling = "bicubic"
    """Filter of the resize, which is Pillow's: over 8-bit values and anti-aliased."""

    names: str = "imagenet1k"
    """Class names given to the model: a file in `classnames/`, with `:variant` if need be."""

    templates: str = "clip_imagenet_80"
    """Template set in `prompts/`, with `:set` if need be."""

    averaging: Averaging = "normalise_mean_normalise"
    """Order in which prompt embeddings are averaged and normalised (`segbench.protocols.bank`)."""

    def __post_init__(self) -> None:
        check_spec(self.dataset, self.id, IMAGE_OPTIONS)
        object.__setattr__(self, "dataset", MappingProxyType(dict(self.dataset)))
        if not 1 <= self.crop_px <= self.short_px:
            raise FormatError(
                f"{self.id}: crop_px must be in [1, short_px], got {self.crop_px} of "
                f"{self.short_px}"
            )
        for key, choices in (("resampling", Resampling), ("averaging", Averaging)):
            if getattr(self, key) not in get_args(choices):
                raise FormatError(unknown(key, getattr(self, key), get_args(choices), self.id))

    @property
    def hash(self) -> str:
        """Sha256 of everything that moves the number, the words of names and templates included.

        The file in which the labels lie does not.
        """
        content = {field.name: getattr(self, field.name) for field in fields(self)}
        del content["summary"]
        content["dataset"] = {k: v for k, v in self.dataset.items() if k != "truth"}
        content["names"] = load_names(self.names)
        content["templates"] = load_templates(self.templates)
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def identity(self) -> dict[str, Any]:
        """What a report says of the task."""
        return {name: getattr(self, name) for name in ("id", "version", "hash")}

    def with_dataset(self, **overrides: Any) -> "ClassificationTask":
        """The same protocol on a data set with other options, such as `layout="flat"`.

        The id stays and the hash changes.

        Raises:
            FormatError: no such option.
        """
        return replace(self, dataset={**self.dataset, **overrides})

    def sizes_for(self, model: Classifier) -> tuple[int, int]:
        """Short side and side of the crop for a model, in pixels."""
        side: int | None = getattr(model, "image_px", None) if self.sized_by_model else None
        if side is None:
            return self.short_px, self.crop_px
        return side * self.short_px // self.crop_px, side


def load_any_task(name_or_path: str | Path) -> Task | ClassificationTask:
    """Load a task of segmentation or of classification, which its data set tells.

    Args:
        name_or_path: an id of `list_tasks()`, or a path that ends in `.toml`.

    Raises:
        UsageError: no such task or file.
        FormatError: the file is not TOML, has an unknown key or a value out of range.
    """
    found = task_text(name_or_path)
    if found is None:
        return combine(*str(name_or_path).split("@"))
    text, source = found
    content = parsed_toml(text, source)
    if content["dataset"].get("kind") in IMAGE_OPTIONS:
        return ClassificationTask(**task_fields(content, source, ClassificationTask))
    return parse_task(text, source)


def cropped(
    image: npt.NDArray[np.uint8], short_px: int, crop_px: int, resampling: Resampling
) -> npt.NDArray[np.uint8]:
    """Resize the short side and cut a square out of the middle, as torchvision does with Pillow.

        scale = short_px / short side,      long side = floor(long side * scale)
        top, left = round((H - crop) / 2), round((W - crop) / 2)        half to even

    Args:
        image: (H, W, 3) RGB.
        short_px: of the resized image.
        crop_px: side of the square, at most `short_px`.
        resampling: filter of the resize.

    Returns:
        (crop_px, crop_px, 3) RGB, what CLIP's and GroupViT's transforms give before `ToTensor`.
    """
    picture = Image.fromarray(image)
    short, long = sorted(picture.size)
    if short != short_px:
        other = int(short_px * long / short)
        wide = picture.width > picture.height
        size = (other, short_px) if wide else (short_px, other)
        picture = picture.resize(size, _FILTERS[resampling])
    left, top = (round((side - crop_px) / 2) for side in picture.size)
    return np.asarray(picture.crop((left, top, left + crop_px, top + crop_px)))


def class_bank(
    classifier: Classifier, task: ClassificationTask, cache: Path | None = None
) -> Tensor:
    """(K, D) text bank of a task, one float32 unit row a class.

    Args:
        classifier: the model.
        task: names, templates and averaging.
        cache: folder of banks, for models with a fingerprint.

    Raises:
        UsageError: a cache and a model without fingerprint.
    """
    names, templates = load_names(task.names), load_templates(task.templates)

    def build() -> Tensor:
        return build_bank(classifier.encode_text, names, templates, task.averaging)

    if cache is None:
        return build()
    content = {
        "prompts": names,
        "templates": templates,
        "averaging": task.averaging,
        "split_synonyms": False,
    }
    return cached_bank(cache, getattr(classifier, "fingerprint", None), content, build)
