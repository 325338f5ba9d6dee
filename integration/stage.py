"""Stages: a piece of work with a fingerprint, skipped when it is done, begun again when killed.

A stage writes into a folder of its own, named after its fingerprint: a hash over what it is set
to and over the fingerprints of what it reads. So a changed recipe never overwrites an older
result, and a stage whose folder says `done` is never run again.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from integration.errors import RecipeError
from integration.provenance import commit

_DONE = "stage.json"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A piece of work.

    Args:
        name: what `--from` and the listing call it.
        settings: everything that its result depends on, beside its inputs; plain JSON values.
        inputs: stages whose folders it reads.
        run: does the work in its folder; called again in the same folder after a kill.
        cost: expected seconds, for the time left; only ratios between stages matter.
        version: raised when the code changes what the stage writes.
    """

    name: str
    settings: Mapping[str, Any]
    inputs: tuple["Stage", ...] = ()
    run: Callable[[Path], None]
    cost: float = 1.0
    version: int = 1

    @property
    def fingerprint(self) -> str:
        """Hash of the name, the version, the settings and the inputs' fingerprints."""
        content = {
            "name": self.name,
            "version": self.version,
            "settings": self.settings,
            "inputs": [stage.fingerprint for stage in self.inputs],
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def folder(self, out: Path) -> Path:
        """Where the stage writes."""
        return out / "stages" / f"{self.name}-{self.fingerprint[:10]}"

    def seconds(self, out: Path) -> float | None:
        """How long the stage took; None when it is not done."""
        path = self.folder(out) / _DONE
        return float(json.loads(path.read_text())["seconds"]) if path.exists() else None


def run_stages(
    stages: Sequence[Stage], out: Path, *, stream: TextIO, again_from: str | None = None
) -> None:
    """Run what is not done, in order.

    Args:
        stages: every stage after its inputs.
        out: root of all stage folders.
        stream: where progress goes, one line a stage.
        again_from: forget the results of this stage and of all after it.

    Raises:
        RecipeError: no stage is called `again_from`.
    """
    if again_from is not None:
        _forget(stages, out, again_from)
    left = [stage for stage in stages if stage.seconds(out) is None]
    total, spent, began = sum(stage.cost for stage in left), 0.0, time.perf_counter()
    trust = 0.1 * total  # expected seconds that weigh as much as as many measured ones
    for number, stage in enumerate(stages, 1):
        head = f"[{number}/{len(stages)}] {stage.name}"
        known = stage.seconds(out)
        if known is not None:
            print(f"{head}: up to date ({known:.0f} s when it ran)", file=stream)
            continue
        elapsed = time.perf_counter() - began
        left_s = (total - spent) * (elapsed + trust) / (spent + trust)
        print(f"{head}: running; about {left_s / 60:.1f} min left in all", file=stream, flush=True)
        print(f"{head}: done in {_run(stage, out):.0f} s", file=stream, flush=True)
        spent += stage.cost


def with_inputs(stages: Sequence[Stage]) -> list[Stage]:
    """The stages and all that they read, directly or not: each once, after its inputs."""
    found: dict[str, Stage] = {}
    for stage in stages:
        for one in [*with_inputs(stage.inputs), stage]:
            found.setdefault(one.name, one)
    return list(found.values())


def describe(stages: Sequence[Stage], out: Path) -> list[str]:
    """One line a stage: what would run and where; for `--dry-run`."""
    return [
        f"{'up to date' if stage.seconds(out) is not None else 'to run':>10}  {stage.name:<24} "
        f"{stage.folder(out)}"
        for stage in stages
    ]


def write_text(path: Path, content: str) -> None:
    """Write a text file whole or not at all."""
    unfinished = path.with_name(path.name + ".tmp")
    unfinished.write_text(content, encoding="utf-8")
    unfinished.replace(path)


def file_sizes(folder: Path) -> list[list[str | int]]:
    """Names and sizes of all files in a folder, sorted: what other data differ in."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [[path.relative_to(folder).as_posix(), path.stat().st_size] for path in files]


def _run(stage: Stage, out: Path) -> float:
    folder = stage.folder(out)
    folder.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    stage.run(folder)
    seconds = time.perf_counter() - began
    note = {
        "name": stage.name,
        "fingerprint": stage.fingerprint,
        "seconds": round(seconds, 2),
        "commit": commit(),
    }
    write_text(folder / _DONE, json.dumps(note, indent=1))
    return seconds


def _forget(stages: Sequence[Stage], out: Path, name: str) -> None:
    names = [stage.name for stage in stages]
    if name not in names:
        raise RecipeError(f"no stage is called {name!r}; there are {', '.join(names)}")
    forgotten = [stage.folder(out) for stage in stages[names.index(name) :]]
    for folder in reversed(
        forgotten
    ):  # first the marks, last to first: a kill leaves no lie behind
        (folder / _DONE).unlink(missing_ok=True)
    for folder in forgotten:
        if folder.exists():
            shutil.rmtree(folder)
