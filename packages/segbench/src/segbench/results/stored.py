"""A folder of results: arrays, and a `results.json` that holds their checksums and comes last."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segbench.errors import FormatError
from segbench.files import write_atomically
from segbench.metrics.interval import Interval

RESULTS = "results.json"


def write_results(
    folder: Path,
    content: Mapping[str, Any],
    arrays: Mapping[str, bytes],
    *,
    kind: str,
    version: int,
) -> None:
    """Write arrays, and then `results.json` with their checksums.

    Each file is written under a temporary name and renamed, so a folder with a `results.json` is
    complete.

    Args:
        folder: made if need be.
        content: of `results.json`; NaN becomes null.
        arrays: contents of the files beside it, by name.
        kind: of the results.
        version: of their format.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RESULTS).unlink(missing_ok=True)  # never beside the arrays of another run
    for name, data in arrays.items():
        write_atomically(folder / name, data)
    whole = {"kind": kind, "schema_version": version, **content}
    whole["files"] = {name: _sha256(data) for name, data in arrays.items()}
    text = json.dumps(without_nan(whole), indent=1, allow_nan=False) + "\n"
    write_atomically(folder / RESULTS, text.encode())


def read_results(path: Path, *, kind: str, version: int) -> dict[str, Any]:
    """Fields of a `results.json`, after the files beside it were checked.

    Raises:
        FormatError: a file is missing, damaged, or of another kind or version.
    """
    content = _parsed(path)
    found = content.pop("kind", None), content.pop("schema_version", None)
    if found != (kind, version):
        raise FormatError(f"{path}: found {found[0]} version {found[1]}, reads {kind} {version}")
    for name, digest in content.pop("files").items():
        beside = path.parent / name
        if not beside.is_file() or _sha256(beside.read_bytes()) != digest:
            raise FormatError(f"{beside}: missing or not the file that {path.name} names")
    return content


def kind_of_results(path: Path) -> str:
    """What kind of results a `results.json` says it holds; empty if it does not say.

    Raises:
        FormatError: it cannot be read.
    """
    return str(_parsed(path).get("kind", ""))


def results_file(path: Path) -> Path:
    """The `results.json` in a folder, or the path itself."""
    return path / RESULTS if path.is_dir() else path


def _parsed(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FormatError(f"{path}: cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise FormatError(f"{path}: holds no results, but a {type(content).__name__}")
    return content


def with_types(content: Mapping[str, Any], tuples: Sequence[str]) -> dict[str, Any]:
    """Give the fields of a report the types that JSON took from them.

    Args:
        content: of `results.json`.
        tuples: fields that are tuples of texts, beside the warnings.
    """
    options = content["data"]["dataset"].items()
    dataset = {k: tuple(v) if isinstance(v, list) else v for k, v in options}
    return {
        **content,
        **{key: tuple(content[key]) for key in (*tuples, "warnings")},
        "data": {**content["data"], "dataset": dataset},
        "metrics": _with_nan(content["metrics"]),
        "per_class": tuple(_with_nan(row) for row in content["per_class"]),
        "interval": Interval(**_with_nan(content["interval"])),
    }


def _with_nan(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """The same numbers with NaN for null."""
    return {key: math.nan if value is None else value for key, value in numbers.items()}


def without_nan(value: Any) -> Any:
    """The same JSON value with null for NaN."""
    if isinstance(value, Mapping):
        return {key: without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
