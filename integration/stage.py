"""Stages: a piece of work with a fingerprint, skipped when it is done, begun again when killed.

A stage writes into a folder of its own, named after its fingerprint: a hash over what it is set
to and over the fingerprints of what it reads. So a changed recipe never overwrites an older
result, and a stage whose folder says `done` is never run again. What it left has checksums, which
are looked at before anything reads it.
"""

import hashlib
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from conceptarchive import folder_lock
from integration.checksums import checksums, find_damage
from integration.errors import DamagedError, RecipeError
from integration.provenance import commit

_DONE = "stage.json"
_BEAT_S = 10.0
_BEATS_A_LINE = 6


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
        note = self._note(out)
        return None if note is None else float(note["seconds"])

    def check(self, out: Path) -> None:
        """Hold what the stage left, if it is done, against the checksums that it noted then.

        Raises:
            DamagedError: a file is gone, or not as it was written.
        """
        note = self._note(out) or {}
        damage = find_damage(self.folder(out), note.get("files", {}))  # older notes have none
        if damage is not None:
            raise DamagedError(f"{damage}; run again with --from {self.name}")

    def _note(self, out: Path) -> dict[str, Any] | None:
        """What the stage wrote last; None when it is not done."""
        path = self.folder(out) / _DONE
        if not path.exists():
            return None
        try:
            note = dict(json.loads(path.read_bytes()))
            float(note["seconds"])
        except (ValueError, TypeError, KeyError) as error:
            raise DamagedError(
                f"{path}: is damaged ({error}); run again with --from {self.name}"
            ) from error
        return note


def run_stages(
    stages: Sequence[Stage],
    out: Path,
    *,
    stream: TextIO,
    again_from: str | None = None,
    then: Callable[[], None] | None = None,
) -> None:
    """Check what is done, and run what is not, in order.

    Args:
        stages: every stage after its inputs.
        out: root of all stage folders.
        stream: where progress goes, one line a stage.
        again_from: forget the results of this stage and of all after it.
        then: reads what stages left, before another process may work in `out`.

    Raises:
        RecipeError: no stage is called `again_from`.
        DamagedError: what a stage left is not as it was; nothing has been forgotten or run.
        UsageError: another process runs stages in `out`.
    """
    kept = stages if again_from is None else stages[: _find(stages, again_from)]
    with folder_lock(out):
        for stage in kept:
            stage.check(out)
        _forget(stages[len(kept) :], out)
        _run_left(stages, out, stream)
        if then is not None:
            then()


def _run_left(stages: Sequence[Stage], out: Path, stream: TextIO) -> None:
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
        with _told(head, stage.name, stream):
            seconds = _run(stage, out, partial(_still, head, stream))
        print(f"{head}: done in {seconds:.0f} s", file=stream, flush=True)
        spent += stage.cost


def _still(head: str, stream: TextIO, seconds: float) -> None:
    print(f"{head}: running for {seconds / 60:.0f} min", file=stream, flush=True)


@contextmanager
def _told(head: str, name: str, stream: TextIO) -> Iterator[None]:
    """Say how to go on when a stage breaks off; the error says why it did."""
    try:
        yield
    except BaseException:
        said = f"not done; the same command goes on, with --from {name} it begins anew"
        print(f"{head}: {said}", file=stream, flush=True)
        raise


def with_inputs(stages: Sequence[Stage]) -> list[Stage]:
    """The stages and all that they read, directly or not: each once, after its inputs."""
    found: dict[str, Stage] = {}
    for stage in stages:
        for one in [*with_inputs(stage.inputs), stage]:
            found.setdefault(one.name, one)
    return list(found.values())


def describe(stages: Sequence[Stage], out: Path, again_from: str | None = None) -> list[str]:
    """One line a stage: what would run and where; for `--dry-run`.

    Args:
        stages: every stage after its inputs.
        out: root of all stage folders.
        again_from: as of `run_stages`; nothing is forgotten.

    Raises:
        RecipeError: no stage is called `again_from`.
    """
    kept = len(stages) if again_from is None else _find(stages, again_from)
    done = [at < kept and stage.seconds(out) is not None for at, stage in enumerate(stages)]
    return [
        f"{'up to date' if is_done else 'to run':>10}  {stage.name:<24} {stage.folder(out)}"
        for is_done, stage in zip(done, stages, strict=True)
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


def fingerprint_files(*folders: Path) -> str:
    """Hash of the names and sizes of all files in some folders."""
    listing = [file for folder in folders for file in file_sizes(folder)]
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()


def _run(stage: Stage, out: Path, say: Callable[[float], None]) -> float:
    folder = stage.folder(out)
    folder.mkdir(parents=True, exist_ok=True)
    with _clock(folder, say) as elapsed:
        stage.run(folder)
        seconds = elapsed()
    note = {
        "name": stage.name,
        "fingerprint": stage.fingerprint,
        "seconds": round(seconds, 2),
        "commit": commit(),
        "files": checksums(folder),
    }
    write_text(folder / _DONE, json.dumps(note, indent=1))
    return seconds


@contextmanager
def _clock(folder: Path, say: Callable[[float], None]) -> Iterator[Callable[[], float]]:
    """Seconds that a stage has worked, before it was killed too, noted and told now and then.

    Args:
        folder: of the stage.
        say: is given the seconds about once a minute.
    """
    path, began, ended = _worked_file(folder), time.perf_counter(), threading.Event()
    before = _worked(path)

    def elapsed() -> float:
        return before + time.perf_counter() - began

    def beat() -> None:
        beats = 0
        while not ended.wait(_BEAT_S):
            with suppress(OSError):  # of a full disk the stage says so itself; seconds are lost
                write_text(path, f"{elapsed():.1f}")
            beats += 1
            if beats % _BEATS_A_LINE == 0:
                say(elapsed())

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield elapsed
    finally:
        ended.set()
        thread.join()
    path.unlink(missing_ok=True)  # done; after the last beat, which would write it again


def _worked_file(folder: Path) -> Path:
    """Beside a stage's folder, while it runs: seconds that it has worked so far."""
    return folder.with_name(f".{folder.name}.seconds")


def _worked(path: Path) -> float:
    try:
        return float(path.read_text())
    except (OSError, ValueError):  # none, or none that can be read: only seconds hang on it
        return 0.0


def _find(stages: Sequence[Stage], name: str) -> int:
    names = [stage.name for stage in stages]
    if name not in names:
        near = get_close_matches(name, names, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
        raise RecipeError(f"no stage is called {name!r}; {hint}")
    return names.index(name)


def _forget(stages: Sequence[Stage], out: Path) -> None:
    folders = [stage.folder(out) for stage in stages]
    for folder in reversed(folders):  # first the marks, last to first: a kill leaves no lie behind
        (folder / _DONE).unlink(missing_ok=True)
    for folder in folders:
        _worked_file(folder).unlink(missing_ok=True)
        if folder.exists():
            shutil.rmtree(folder)
