"""What a data folder has of the things that a run needs, and how to get the rest.

Any run can be checked: it gives its needs, each a function from the folder to a `Finding`.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from conceptarchive import ConceptArchiveError, Vocabulary
from groupvit import GroupViTError
from integration.errors import DataMissingError
from integration.papers.catalogue import PAIR_SETS
from integration.papers.pairs import count_pairs, find_set
from integration.papers.recipe import PairsRecipe
from segbench import (
    BenchmarkDataset,
    ClassificationTask,
    ImageNetDataset,
    SegbenchError,
    Task,
    expected_images,
    how_to_get,
    open_dataset,
)

FEW = 0.9
"""Share of the published pairs below which a set is called short."""
GET_CLIP = (
    "hf download timm/vit_base_patch16_clip_224.openai open_clip_config.json "
    "open_clip_model.safetensors --local-dir ROOT/{name}"
)
WEIGHTS = ("*.safetensors", "*.bin")

State = Literal["ok", "short", "missing"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """Whether a thing is there."""

    name: str
    """What is needed."""
    state: State
    """`short`: less than the published run had, but enough to go on."""
    found: str
    """What is there, or what is wrong."""
    get: str = ""
    """How to get it, where it is missing."""
    pairs: int = 0
    """Of a pair set; of a missing one, those of the published run, for the plan."""
    images: int = 0
    """Of a data set that is scored, or photographs that are trained on; of a missing one, those
    that it is published with."""
    bytes: int = 0
    """Of a pair set, on disk."""


Need = Callable[[Path], Finding]
"""Looks for one thing below a data folder."""


def look(needs: Sequence[Need], root: Path) -> list[Finding]:
    """Look for everything.

    Args:
        needs: of the run.
        root: the data folder.

    Raises:
        DataMissingError: there is no such folder.
    """
    if not root.is_dir():
        raise DataMissingError(f"{root}: no such folder; --data names the one with the data sets")
    return [need(root) for need in needs]


def describe(findings: Sequence[Finding], root: Path) -> list[str]:
    """A line for every finding, and one more on how to get what is missing."""
    lines = [f"data in {root}:"]
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        lines.append(f"{finding.state:>9}  {finding.name:<{width}} {finding.found}")
        if finding.get:
            lines.append(f"{'':>9}  {'get it:':<{width}} {finding.get.replace('ROOT', str(root))}")
    return lines


def require(findings: Sequence[Finding], run: str, root: Path) -> None:
    """Refuse to begin without something.

    Args:
        findings: of `look`.
        run: name of the run, for the message.
        root: the data folder.

    Raises:
        DataMissingError: naming all that is missing.
    """
    missing = [finding.name for finding in findings if finding.state == "missing"]
    if missing:
        raise DataMissingError(
            f"{run} lacks {len(missing)} of {len(findings)} things in {root}: "
            f"{', '.join(missing)}; the lines `get it` say how to get them"
        )


def needs_of(recipe: PairsRecipe) -> list[Need]:
    """All that a run on pairs needs."""
    sets = dict.fromkeys((*recipe.sets, *recipe.embedded))
    needs: list[Need] = [partial(find_pairs, recipe, name) for name in sets]
    if recipe.curates:
        needs.append(partial(find_clip, recipe.encoder))
    if recipe.curates and recipe.gallery:
        needs.append(partial(find_gallery, recipe.gallery))
    return [*needs, *(partial(find_task, task) for task in recipe.load_tasks())]


def find_pairs(recipe: PairsRecipe, name: str, root: Path) -> Finding:
    """Look for the shards of a pair set, and count its pairs."""
    known = PAIR_SETS[name]
    shards = find_set(recipe, name, root)
    if not shards.files:
        found = f"{known.title}: no *.tar in {root / name}"
        return _no_pairs(recipe, name, found)
    try:
        pairs, exact = count_pairs(shards)
    except (GroupViTError, ValueError, KeyError) as error:  # a damaged shard or note of counts
        return _no_pairs(recipe, name, str(error))
    published = recipe.published(name)
    several = f"{len(shards.files):,} shards, " if len(shards.files) > 1 else "1 shard, "
    return Finding(
        name=name,
        state="short" if pairs < FEW * published else "ok",
        found=f"{several}{file_size(shards.bytes)}, {'' if exact else 'about '}{pairs:,} pairs; "
        f"the published run had {published:,} ({(pairs - published) / published:+.1%})",
        pairs=pairs,
        bytes=shards.bytes,
    )


def _no_pairs(recipe: PairsRecipe, name: str, found: str) -> Finding:
    get, pairs = PAIR_SETS[name].get, recipe.published(name)
    return Finding(name=name, state="missing", found=found, get=get, pairs=pairs)


def find_clip(
    name: str,
    root: Path,
    *,
    title: str = "CLIP ViT-B/16",
    get: str | None = None,
    wanted: Mapping[str, object] | None = None,
    tokenizer: Sequence[str] = (),
) -> Finding:
    """Look for a CLIP: open_clip's configuration and weights.

    Args:
        name: folder below the data folder.
        root: the data folder.
        title: what it is.
        get: how to get it; the one that curates when left out.
        wanted: fields of `model_cfg` that the weights of this name have.
        tokenizer: files of it that lie beside the weights.
    """
    folder = root / name
    missing = partial(
        Finding, name=name, state="missing", get=GET_CLIP.format(name=name) if get is None else get
    )
    weights = [file for pattern in WEIGHTS for file in folder.glob(pattern)]
    try:
        config = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
        width = config["embed_dim"]
    except FileNotFoundError:
        return missing(found=f"{title}: no open_clip_config.json in {folder}")
    except (OSError, ValueError, KeyError) as error:
        told = f"{title}: no open_clip_config.json that can be read in {folder} ({error})"
        return missing(found=told)
    for field, value in (wanted or {}).items():
        if config.get(field, False) != value:
            told = f"{title} has {field} {value}, {folder} has {config.get(field, False)}"
            return missing(found=told)
    if not weights:
        return missing(found=f"{title}: no weights in {folder}")
    if lacking := [file for file in tokenizer if not (folder / file).is_file()]:
        return missing(found=f"{title}: no {' and no '.join(lacking)} of its tokenizer in {folder}")
    quick = "QuickGELU, as OpenAI's weights need" if config.get("quick_gelu") else "GELU"
    size = file_size(sum(file.stat().st_size for file in weights))
    return Finding(name=name, state="ok", found=f"{size}, {width} numbers, {quick}")


def find_gallery(name: str, root: Path) -> Finding:
    """Look for a list of concept names."""
    try:
        names = len(Vocabulary.from_file(root / name))
    except ConceptArchiveError as error:
        get = f"take rewrite/gallery.json of xing0047/rewrite to ROOT/{name}, or leave gallery out"
        return Finding(name=name, state="missing", found=str(error), get=get)
    return Finding(name=name, state="ok", found=f"{names:,} concepts")


def find_task(task: Task | ClassificationTask, root: Path) -> Finding:
    """Look for the images and labels of a task."""
    kind = str(task.dataset["kind"])
    try:
        dataset = (
            ImageNetDataset(root, **{k: v for k, v in task.dataset.items() if k != "kind"})
            if isinstance(task, ClassificationTask)
            else open_dataset(task.dataset, root)
        )
    except SegbenchError as error:
        return _no_images(task.id, kind, str(error))
    images = len(dataset)
    if not isinstance(dataset, BenchmarkDataset | ImageNetDataset):
        return Finding(name=task.id, state="ok", found=f"{images:,} images", images=images)
    return Finding(
        name=task.id,
        state="short" if images < dataset.expected_images else "ok",
        found=f"{images:,} images of {dataset.expected_images:,}, layout {dataset.layout}",
        images=images,
    )


def _no_images(name: str, kind: str, found: str) -> Finding:
    try:
        get, images = how_to_get(kind), expected_images(kind)
    except SegbenchError:  # a folder of one's own
        get, images = "see the file of the task", 0
    return Finding(name=name, state="missing", found=found, get=get, images=images)


def file_size(size: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
