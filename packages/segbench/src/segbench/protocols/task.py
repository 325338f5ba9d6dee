"""A task is a data set under a protocol: every choice that moves the number, and a hash of it."""

import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

from segbench.datasets import IMAGE_OPTIONS, check_spec
from segbench.errors import FormatError, UsageError, unknown
from segbench.metrics.confusion import ABSENT_RULES, AbsentRule
from segbench.protocols.bank import Averaging
from segbench.words import load_queries, load_templates

BackgroundName = Literal["none", "threshold", "constant", "softmax_floor"]
RegionName = Literal["none", "class", "component"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """A data set under a protocol.

    Raises:
        FormatError: a value is out of range, or an option of the data set is unknown.
    """

    id: str
    """`<data set>@<protocol>`."""

    dataset: Mapping[str, Any]
    """`kind` of data set and its options (`segbench.datasets`)."""

    version: int = 1
    """Raised whenever a choice below changes, so that old results are not compared with new."""

    summary: str = ""
    """One line for `segbench ls`; not part of the hash."""

    short_px: int | None = None
    """Resize the short side to this, keeping the ratio; no resize when left out."""

    long_px: int | None = None
    """... unless the long side would pass this."""

    square_px: int | None = None
    """... and then to a square of this side, whatever the ratio (PixelCLIP)."""

    largest_px: int | None = None
    """Pictures of more pixels than a square of this side are first shrunk to it on their long side,
    and their label maps enlarged by nearest neighbour (ImageNet-S)."""

    window_px: int | None = None
    """Side of the square windows; the whole image at once when left out."""

    stride_px: int | None = None
    """Step between windows, at most `window_px`."""

    background: BackgroundName = "none"
    """How a pixel becomes background (`segbench.protocols.background`)."""

    background_value: float = 0.0
    """Threshold, constant or floor of the background policy."""

    background_scale: float = 1.0
    """Factor on scores before the softmax of `softmax_floor`."""

    background_label: int = 0
    """Label id of the background; that class is given no prompt. Unused by policy `none`."""

    background_queries: bool = False
    """Whether the background has prompts all the same: its entry in `names` (SCLIP)."""

    area_floor: float = 0.0
    """Share of the foreground of a picture at which, or below it, a class is left out (SCLIP)."""

    extra_names: tuple[str, ...] = ()
    """Further names whose places become background (CAT-Seg's VOC-20b)."""

    names: str = ""
    """Class names given to the model: the data set's own when empty, else a file in `classnames/`,
    with `:variant` if need be, such as `voc21:groupvit`. Of several synonyms of a class the best
    one counts at every place."""

    strip_suffixes: tuple[str, ...] = ()
    """Endings taken off the names, such as `-merged`."""

    templates: str = "groupvit_simple"
    """Template set in `prompts/`, with `:set` if need be, such as `groupvit_simple:subset`."""

    averaging: Averaging = "normalise_mean_normalise"
    """Order in which prompt embeddings are averaged and normalised (`segbench.protocols.bank`)."""

    split_synonyms: bool = False
    """Treat a name such as "bed, cot" as two synonyms that are averaged."""

    regions: RegionName = "none"
    """`class` or `component`: the true masks are given, and only their names are sought. All pixels
    of a class in an image, or of an 8-connected part of them, get the class of highest mean score
    there (zero-shot mask classification: PixelCLIP, table 2)."""

    absent: AbsentRule = "union"
    """Rule for absent classes behind the metric `miou`; all rules are reported."""

    def __post_init__(self) -> None:
        check_spec(self.dataset, self.id)
        object.__setattr__(self, "dataset", MappingProxyType(_frozen(self.dataset)))
        object.__setattr__(self, "strip_suffixes", tuple(self.strip_suffixes))
        object.__setattr__(self, "extra_names", tuple(self.extra_names))
        _check_sizes(self)
        _check_choice(self, "background", get_args(BackgroundName))
        _check_choice(self, "averaging", get_args(Averaging))
        _check_choice(self, "absent", ABSENT_RULES)
        _check_choice(self, "regions", get_args(RegionName))
        _check_background(self)
        if self.regions != "none" and (self.background != "none" or self.largest_px is not None):
            raise FormatError(f"{self.id}: regions go with background none, without largest_px")

    @property
    def hash(self) -> str:
        """Sha256 of everything that moves the number, the words of names and templates included.

        The folder in which a benchmark lies does not.
        """
        content = {field.name: getattr(self, field.name) for field in fields(self)}
        del content["summary"]
        if self.regions == "none":
            del content["regions"]  # tasks keep the hash that they had before there were regions
        placed = {"folder"} if self.dataset["kind"] not in ("folder", "scenes") else set()
        content["dataset"] = {k: v for k, v in self.dataset.items() if k not in placed}
        if "groups" in self.dataset:  # whose order is that of the label ids
            content["dataset"]["groups"] = list(self.dataset["groups"].items())
        content["names"] = load_queries(self.names) if self.names else ()
        content["templates"] = load_templates(self.templates)
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def identity(self) -> dict[str, Any]:
        """What a report says of the task."""
        names = ("id", "version", "hash", "absent")
        return {name: getattr(self, name) for name in names}

    def with_dataset(self, **overrides: Any) -> "Task":
        """The same protocol on a data set with other options, such as `count=20`.

        The id stays and the hash changes.

        Raises:
            FormatError: no such option.
        """
        return replace(self, dataset={**self.dataset, **overrides})


def _frozen(options: Mapping[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}


def _check_sizes(task: Task) -> None:
    for name in ("short_px", "long_px", "square_px", "largest_px", "window_px", "stride_px"):
        value = getattr(task, name)
        if value is not None and value < 1:
            raise FormatError(f"{task.id}: {name} must be >= 1, got {value}")
    if (task.window_px is None) != (task.stride_px is None):
        raise FormatError(f"{task.id}: window_px and stride_px are given together or not at all")
    if task.window_px and task.stride_px and task.stride_px > task.window_px:
        raise FormatError(
            f"{task.id}: stride_px must be <= window_px {task.window_px}, got {task.stride_px}"
        )
    if task.long_px is not None and task.short_px is None:
        raise FormatError(f"{task.id}: long_px needs short_px")


def _check_background(task: Task) -> None:
    if task.background_label < 0:
        raise FormatError(f"{task.id}: background_label must be >= 0: {task.background_label}")
    if not 0 <= task.area_floor < 1:
        raise FormatError(f"{task.id}: area_floor must be in [0, 1), got {task.area_floor}")
    if task.background_scale <= 0:
        raise FormatError(f"{task.id}: background_scale must be > 0, got {task.background_scale}")
    by_pixel = task.background in ("constant", "softmax_floor")
    for name in ("background_queries", "area_floor"):
        if getattr(task, name) and not by_pixel:
            raise FormatError(f"{task.id}: {name} needs background constant or softmax_floor")
    if task.extra_names and task.background in ("none", "threshold"):
        raise FormatError(f"{task.id}: extra_names need background constant or softmax_floor")


def _check_choice(task: Task, key: str, choices: tuple[str, ...]) -> None:
    value = getattr(task, key)
    if value not in choices:
        raise FormatError(unknown(key, str(value), choices, task.id))


def list_tasks() -> list[str]:
    """Ids of the tasks that come with the package, of segmentation and classification, sorted."""
    combined = [f"{dataset}@{name}" for name in _stems("protocols") for dataset in _defined(name)]
    return sorted([*_stems("tasks"), *combined])


def _stems(folder: str) -> list[str]:
    """Names of the TOML files of a folder of the package, without suffix."""
    entries = (files("segbench") / folder).iterdir()
    return [e.name.removesuffix(".toml") for e in entries if e.name.endswith(".toml")]


def _defined(protocol: str) -> list[str]:
    """Data sets that a protocol says something of."""
    return [key for key, value in _protocol(protocol).items() if isinstance(value, dict)]


def _protocol(name: str) -> dict[str, Any]:
    text = (files("segbench") / "protocols" / f"{name}.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def combine(dataset: str, protocol: str) -> Task:
    """A benchmark data set under one of the protocols of the package.

    A protocol is a TOML file: fields of `Task` for all data sets, and a table for every data set
    that it is defined for, with what differs there.

    Raises:
        UsageError: no such protocol, or it says nothing of the data set.
    """
    if protocol not in _stems("protocols"):
        raise UsageError(unknown("protocol", protocol, _stems("protocols")))
    content = _protocol(protocol)
    if not isinstance(content.get(dataset), dict):
        raise UsageError(unknown(f"data set of protocol {protocol}", dataset, _defined(protocol)))
    common = {key: value for key, value in content.items() if not isinstance(value, dict)}
    fields_of_task = {**common, **content[dataset], "dataset": {"kind": dataset}}
    _check_types(fields_of_task, f"{protocol}.toml", Task)
    return Task(id=f"{dataset}@{protocol}", **fields_of_task)


def load_task(name_or_path: str | Path) -> Task:
    """Load a task of segmentation by id, or from a TOML file of your own.

    Args:
        name_or_path: an id of `list_tasks()`, or a path that ends in `.toml`.

    Raises:
        UsageError: no such task or file, or one that classifies images (`load_any_task`).
        FormatError: the file is not TOML, has an unknown key or a value out of range.
    """
    found = task_text(name_or_path)
    if found is None:
        return combine(*str(name_or_path).split("@"))
    return parse_task(*found)


def task_text(name_or_path: str | Path) -> tuple[str, str] | None:
    """The TOML of a task and the name of its file; None where a protocol and a data set make it.

    Raises:
        UsageError: no such task or file.
        FormatError: the file is no text.
    """
    name = str(name_or_path)
    if name.endswith(".toml"):
        path = Path(name_or_path)
        if not path.is_file():
            raise UsageError(f"no task file at {path}")
        try:
            return path.read_text(encoding="utf-8"), str(path)
        except UnicodeDecodeError as error:
            raise FormatError(f"{path}: a task file must be UTF-8: {error}") from error
    if name not in list_tasks():
        raise UsageError(unknown("task", name, list_tasks()))
    if name not in _stems("tasks"):
        return None
    text = (files("segbench") / "tasks" / f"{name}.toml").read_text(encoding="utf-8")
    return text, f"{name}.toml"


def parse_task(text: str, source: str) -> Task:
    """Build a task from TOML.

    Args:
        text: the fields of `Task` as keys, and a table `[dataset]`.
        source: file to name in errors; its stem is the id when the text has none.

    Raises:
        FormatError: not TOML, an unknown or missing key, a wrong type, or a value out of range.
        UsageError: it classifies images.
    """
    content = parsed_toml(text, source)
    if content["dataset"].get("kind") in IMAGE_OPTIONS:
        raise UsageError(
            f"{Path(source).stem} classifies images, which only `segbench run` and "
            "evaluate_classification do"
        )
    return Task(**task_fields(content, source, Task))


def parsed_toml(text: str, source: str) -> dict[str, Any]:
    """The content of a task file, with a table `dataset`.

    Raises:
        FormatError: not TOML, or without that table.
    """
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise FormatError(f"{source}: {error}") from error
    if not isinstance(content.get("dataset"), dict):
        raise FormatError(f"{source}: a task needs a table [dataset]")
    return content


def task_fields(content: Mapping[str, Any], source: str, kind: type) -> dict[str, Any]:
    """Fields of a dataclass of tasks from the content of a file, whose stem is the default id.

    Raises:
        FormatError: an unknown key or a wrong type.
    """
    known = [field.name for field in fields(kind)]
    for key in content:
        if key not in known:
            raise FormatError(unknown("key", key, known, source))
    _check_types(content, source, kind)
    return {"id": Path(source).stem, **content}


_TOML_TYPES: dict[Any, type | tuple[type, ...]] = {
    int: int,
    int | None: int,
    float: (int, float),
    bool: bool,
    tuple[str, ...]: list,
    Mapping[str, Any]: dict,
}
"""What TOML must hold for a field of each type; the other fields are strings."""


def _check_types(content: Mapping[str, Any], source: str, kind: type) -> None:
    for field in fields(kind):
        if field.name not in content:
            continue
        wants, value = _TOML_TYPES.get(field.type, str), content[field.name]
        if not isinstance(value, wants) or (isinstance(value, bool) and wants is not bool):
            wanted = getattr(field.type, "__name__", field.type)
            raise FormatError(f"{source}: {field.name} must be {wanted}, got {value!r}")
