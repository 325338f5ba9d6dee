"""The nearest class names of class prompts, and tables of them."""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from maskcluster.errors import DataError, UsageError
from maskcluster.files import hash_json, write_json, write_text
from maskcluster.precision import wide
from maskcluster.segmenting.bank import SYNONYMS

KIND, VERSION = "maskcluster.names", 1


@dataclass(frozen=True, kw_only=True, slots=True)
class NamedCluster:
    """A cluster and the class names that are nearest to its prompt."""

    cluster: int
    """Its number, in [0, K)."""

    name: str
    """The nearest class name."""

    similarity: float
    """Cosine of the prompt with it."""

    runners_up: tuple[tuple[str, float], ...] = ()
    """The next names and their cosines, from high to low."""

    masks: int | None = None
    """Masks that were assigned to it, where any were looked at."""

    pixels: float | None = None
    """Share of the pixels of photographs on which its prompt won, where any were looked at."""


def name_clusters(
    prompt_rows: Tensor,
    names: Sequence[str],
    name_rows: Tensor,
    *,
    runners_up: int = 4,
    masks: Sequence[int] | None = None,
    pixels: Sequence[float] | None = None,
) -> list[NamedCluster]:
    """Give every class prompt the class name of highest cosine (PixelCLIP, arXiv:2409.19846).

    Several clusters may have one name: K is usually not the number of classes, and a class of many
    looks is learnt as several clusters.

    Args:
        prompt_rows: (K, D), of any length.
        names: n class names.
        name_rows: (n, D) their features, of any length.
        runners_up: how many names after the nearest are told, as far as there are so many.
        masks: K counts.
        pixels: K shares.

    Returns:
        K, in order. Of equal cosines the name that is listed first wins.

    Raises:
        ValueError: shapes disagree, there is no name, or a feature is not finite.
    """
    clusters, count = len(prompt_rows), len(names)
    if prompt_rows.ndim != 2 or not count or name_rows.shape != (count, prompt_rows.shape[1]):
        raise ValueError(
            f"prompts must be (K, D) and names ({count}, D), at least one, "
            f"got {tuple(prompt_rows.shape)} and {tuple(name_rows.shape)}"
        )
    for what, counts in (("masks", masks), ("pixels", pixels)):
        if counts is not None and len(counts) != clusters:
            raise ValueError(f"{what} must be of {clusters} clusters, got {len(counts)}")
    cosine = _unit(prompt_rows) @ _unit(name_rows).to(prompt_rows.device).mT  # (K, n)
    if not bool(cosine.isfinite().all()):
        raise ValueError("prompts and names must be finite")
    values, order = cosine.sort(dim=1, descending=True, stable=True)
    told = min(runners_up, count - 1) + 1
    found = []
    for cluster in range(clusters):
        near = zip(order[cluster, :told].tolist(), values[cluster, :told].tolist(), strict=True)
        (first, similarity), *others = near
        found.append(
            NamedCluster(
                cluster=cluster,
                name=names[first],
                similarity=similarity,
                runners_up=tuple((names[i], value) for i, value in others),
                masks=None if masks is None else int(masks[cluster]),
                pixels=None if pixels is None else float(pixels[cluster]),
            )
        )
    return found


def read_names(names: str | Path) -> tuple[str, ...]:
    """Read a list of class names.

    Args:
        names: a text file with one class a line, or the names themselves, separated by commas. On
            a line of a file a comma and a space separate synonyms of one class.

    Returns:
        The names as they are written, blank lines left out.

    Raises:
        DataError: a file that cannot be read or has no names in it.
        UsageError: a name that is there twice, or text that is neither a file nor a list.
    """
    path = Path(names)
    if "," in str(names) and not path.is_file():
        found = str(names).split(",")
    elif path.suffix or path.is_file() or isinstance(names, Path):
        found = _lines(path)
    else:
        raise UsageError(
            f"{names}: no such file; class names are a text file, one a line, "
            "or a list with commas between them"
        )
    kept = [name.strip() for name in found if name.strip()]
    if not kept:
        raise DataError(f"{names}: no class names in it")
    twice = {name for name in kept if kept.count(name) > 1}
    if twice:
        raise UsageError(f"{names}: has the class name {min(twice)!r} twice")
    return tuple(kept)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason})") from error


def short_name(name: str) -> str:
    """The first of a name's synonyms, for pictures."""
    return name.split(SYNONYMS)[0]


def write_names(
    folder: Path, clusters: Sequence[NamedCluster], names: Sequence[str]
) -> dict[str, Path]:
    """Write names.json, names.md and names.csv.

    Args:
        folder: where; it is there.
        clusters: of `name_clusters`.
        names: all class names that were asked for.

    Returns:
        The files by suffix.
    """
    files = {suffix: folder / f"names.{suffix}" for suffix in ("md", "csv", "json")}
    write_text(files["md"], as_markdown(clusters))
    write_text(files["csv"], _as_csv(clusters))
    write_json(
        files["json"],
        {
            "kind": KIND,
            "version": VERSION,
            "class_names": list(names),
            "class_names_sha256": hash_json(list(names)),
            "clusters": [_plain(one) for one in clusters],
        },
    )
    return files


def as_markdown(clusters: Sequence[NamedCluster]) -> str:
    """A table, one row a cluster."""
    counted, seen = _has(clusters)
    head = ["cluster", "name", "cosine", *["masks"] * counted, *["pixels"] * seen, "runners-up"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for one in clusters:
        others = ", ".join(f"{name} {value:.3f}" for name, value in one.runners_up)
        cells = [str(one.cluster), one.name, f"{one.similarity:.3f}"]
        cells += [str(one.masks)] * counted + [f"{one.pixels or 0:.1%}"] * seen + [others]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _as_csv(clusters: Sequence[NamedCluster]) -> str:
    counted, seen = _has(clusters)
    told = max((len(one.runners_up) for one in clusters), default=0)
    head = ["cluster", "name", "similarity", *["masks"] * counted, *["pixels"] * seen]
    head += [f"{part}_{at + 2}" for at in range(told) for part in ("name", "similarity")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    for one in clusters:
        own: list[object] = [one.cluster, one.name, f"{one.similarity:.6f}"]
        own += [one.masks] * counted + [f"{one.pixels or 0:.6f}"] * seen
        own += [cell for name, value in one.runners_up for cell in (name, f"{value:.6f}")]
        writer.writerow(own)
    return text.getvalue()


def _has(clusters: Sequence[NamedCluster]) -> tuple[bool, bool]:
    """Whether masks were counted, and whether pixels were."""
    counted = any(one.masks is not None for one in clusters)
    return counted, any(one.pixels is not None for one in clusters)


def _plain(one: NamedCluster) -> dict[str, Any]:
    """For JSON, without what was not counted."""
    others = [{"name": name, "similarity": value} for name, value in one.runners_up]
    values = asdict(one) | {"runners_up": others}
    return {key: value for key, value in values.items() if value is not None}


def _unit(rows: Tensor) -> Tensor:
    return F.normalize(wide(rows.detach()), dim=1)
