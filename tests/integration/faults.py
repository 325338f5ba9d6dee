"""Kill, damage, fill the disk, run two at once: does the command end in the same numbers?

    python tests/integration/faults.py OUT.json [--verb pixelclip] [--kills 30] [--seed 0]

A case passes when the numbers of results.json are, bit for bit, those of an unbroken run; or, but
for kills, when the command ends with one line that names the trouble and an exit code of 1 to 4,
and the same numbers come once its advice is followed. OUT.md beside the JSON has the table. Every
case calls the `main` of `integration.reproduce` in
a process group of its own, forked after the imports, which take longer than the tiny run: no kill
is wasted on them.
"""

import json
import multiprocessing
import os
import platform
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal

from jsonargparse import auto_cli

PARTS = "kills,damage,unfinished,disk,two"
SOURCES = {"cocu": "conftest.py", "pixelclip": "pixelclip/test_pixelclip_run.py"}
"""Where the tests' tiny recipes stand, beside this file."""
ARMS = {"cocu": "baseline,cocu", "pixelclip": "pixelclip,dino"}
"""A fault needs no third of a kind."""
VARIES = ("seconds", "speed", "date", "commit", "machine", "command")
"""What of results.json no two runs share."""
WAIT_S = 900.0
MB = 2**20
PRELOADED = ["integration.reproduce", "textblob", "matplotlib.pyplot", "torch.utils.tensorboard"]
"""Modules that take seconds to import; a run would load the last three on its way."""
IN_USE = "another process"
"""What the second command on a folder says."""
NO_ROOM = ("No space", "too large", "make room")
"""What a command on a full disk says, any of them."""
POLL_S = 0.02
FAULTS = {
    "kills": "SIGKILL to the process group at a random moment, a third of the runs twice, then "
    "the same command again",
    "damage": "one file of a finished stage: 8 bytes flipped, cut in half, emptied or deleted",
    "unfinished": "one file of a stage that was killed half-way or right before its end, damaged "
    "in one of these ways",
    "disk": "a disk or files with too little room, then with enough",
    "two": "a second command on the same folder",
}
"""What the parts are."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process ended."""

    code: int
    """Exit code; minus the signal that ended it."""
    said: tuple[str, ...]
    """Lines on standard error that are neither progress nor logged warnings."""
    stage: str
    """The last stage that it said it ran; "" for none."""
    seconds: float

    @property
    def in_one_line(self) -> bool:
        """Whether it could not, and said so in one line."""
        return 1 <= self.code <= 4 and len(self.said) == 1 and self.said[0].startswith("reproduce:")


@dataclass(frozen=True, slots=True)
class Case:
    """One fault and what came of it."""

    part: str
    what: str
    outcome: str
    """`same numbers`, `one line, then same numbers`, or what is wrong."""
    passed: bool
    said: str = ""


class Command:
    """The command on a tiny recipe, as often as wanted, without importing it again.

    Args:
        verb: of the command.
        recipe: its recipe, a file.
        logs: folder for what processes print.
    """

    def __init__(self, verb: str, recipe: Path, logs: Path) -> None:
        self.verb, self.recipe, self.logs, self.started = verb, recipe, logs, 0
        context = multiprocessing.get_context("forkserver")
        assert isinstance(context, ForkServerContext)
        context.set_forkserver_preload(PRELOADED)
        self.context = context

    def start(self, out: Path, *options: str, **faults: Any) -> "Running":
        """Start it on a folder of results; `faults` as of `_child`."""
        self.started += 1
        log = self.logs / f"{self.started:04d}"
        chosen = ["--recipe", str(self.recipe), "--arms", ARMS[self.verb], "--out", str(out)]
        arguments = [self.verb, *chosen, *options]
        process = self.context.Process(target=_child, args=(arguments, log), kwargs=faults)
        process.start()
        return Running(process, log, time.perf_counter())

    def run(self, out: Path, *options: str, **faults: Any) -> Ended:
        """Start it and wait until it has ended."""
        return self.start(out, *options, **faults).ended(WAIT_S)


@dataclass(frozen=True, slots=True)
class Running:
    """A process of the command."""

    process: BaseProcess
    log: Path
    began: float

    def kill_in(self, stage: str, seconds: float) -> Ended:
        """Kill its whole group some seconds into a stage ("": its start), if it has not ended."""
        while stage and self.process.exitcode is None:
            if self.log.exists() and f"] {stage}: running" in self.log.read_text(errors="replace"):
                break
            if time.perf_counter() - self.began > WAIT_S:
                raise TimeoutError(f"{stage} not begun after {WAIT_S} s: {self.log}")
            self.process.join(POLL_S)
        self.process.join(seconds)
        if self.process.exitcode is None and self.process.pid is not None:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:  # no group of its own yet, or it has just ended
                self.process.kill()
        return self.ended(WAIT_S)

    def ended(self, wait_s: float) -> Ended:
        """Wait for its end."""
        self.process.join(wait_s)
        if self.process.exitcode is None:
            raise TimeoutError(f"not ended after {wait_s} s: {self.log}")
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        lines = text.splitlines()
        stages = re.findall(r"^\[\d+/\d+\] (\S+): running", text, re.MULTILINE)
        return Ended(
            self.process.exitcode,
            tuple(line for line in lines if not re.match(r"\[\d+/\d+\] |WARNING:", line)),
            stages[-1] if stages else "",
            time.perf_counter() - self.began,
        )


def _child(
    arguments: list[str],
    log: Path,
    *,
    renames: Path | None = None,
    kill_before: int = 0,
    largest: int | None = None,
) -> None:
    """Run the command in a process group of its own.

    Args:
        arguments: of the command.
        log: file for standard error; standard output is dropped.
        renames: file that gets one line for every file that is given its final name.
        kill_before: SIGKILL before the n-th of these; 0 for never.
        largest: bytes that a file may have.
    """
    os.setsid()
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    count = 0

    def watch(event: str, values: tuple[Any, ...]) -> None:
        nonlocal count
        if event != "os.rename" or "/stages/" not in str(values[1]):
            return
        count += 1
        if count == kill_before:
            os.kill(os.getpid(), signal.SIGKILL)
        if renames is not None:
            with renames.open("a") as file:
                print(str(values[1]).split("/stages/")[1], file=file)

    if renames is not None or kill_before:
        sys.addaudithook(watch)
    if largest is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))
    from integration.reproduce import main

    sys.exit(main(arguments))


def numbers(out: Path) -> dict[str, Any] | None:
    """All that two runs have to share; None when there is no results.json."""
    path = out / "results.json"
    if not path.exists():
        return None
    found = json.loads(path.read_text())
    return {name: value for name, value in found.items() if name not in VARIES}


class Trial:
    """An unbroken run, and every way to break another.

    Args:
        command: what is run.
        top: folder to work in.
        seed: of moments and choices.
    """

    def __init__(self, command: Command, top: Path, seed: int) -> None:
        self.command, self.top, self.random = command, top, random.Random(seed)
        self.cases: list[Case] = []
        self.killed_in: Counter[str] = Counter()
        self.whole = top / "whole"
        self.renames = top / "renames"
        if not (self.whole / "results.json").exists():  # or a trial in this folder has left it
            self._unbroken(self.whole, renames=self.renames)
        shutil.rmtree(top / "second", ignore_errors=True)
        self.seconds = self._unbroken(top / "second")  # of this call and this machine
        self.same = numbers(self.whole)
        if self.same is None or numbers(top / "second") != self.same:
            raise RuntimeError(f"two unbroken runs differ: {self.whole} and {top / 'second'}")
        notes = [json.loads(p.read_text()) for p in top.glob("second/stages/*/stage.json")]
        own = {note["name"]: float(note["seconds"]) for note in notes}
        order = [line.split("/")[0][:-11] for line in self.renames.read_text().splitlines()]
        self.stages = sorted(own, key=lambda name: _last(order, name))
        self.own = {"": max(self.seconds - sum(own.values()), 0.0), **own}

    def _unbroken(self, out: Path, **options: Any) -> float:
        """Run the command as it should run; the seconds that it took."""
        ended = self.command.run(out, **options)
        if ended.code != 0:
            raise RuntimeError(f"an unbroken run ended with {ended}")
        return ended.seconds

    def note(self, part: str, what: str, outcome: str, *, passed: bool, said: str = "") -> None:
        """Keep a case, and show it."""
        self.cases.append(Case(part, what, outcome, passed, said))
        line = f"{part:>10} {'ok' if passed else 'FAILED':>6}  {what}: {outcome}  {said}"
        print(line, file=sys.stderr, flush=True)  # noqa: T201  # a command

    def judge(
        self,
        part: str,
        what: str,
        out: Path,
        ended: Ended,
        *,
        named: Sequence[str] = ("",),
        follow: Sequence[str] | None = (),
    ) -> None:
        """Whether numbers are the same, or the command said why not and what helps.

        Args:
            part: of the trial.
            what: the fault.
            out: folder of results, whose results.json was taken away before.
            ended: how the command ended.
            named: words of which its one line must hold one.
            follow: options that its advice stands for; None to leave it at the line.
        """
        said = " | ".join(ended.said).replace(str(self.top), "")
        if ended.code == 0:
            self._compare(part, what, out)
        elif not ended.in_one_line:
            last = said.split(" | ")[-1]  # of a traceback what was raised
            self.note(part, what, f"code {ended.code}, not one line", passed=False, said=last)
        elif not any(word in said for word in named):
            self.note(part, what, "the line names something else", passed=False, said=said)
        elif follow is None:
            self.note(part, what, "one line", passed=True, said=said)
        else:
            again = self.command.run(out, *follow)
            alike = again.code == 0 and numbers(out) == self.same
            outcome = "one line, then same numbers" if alike else f"advice of no use: {again}"
            self.note(part, what, outcome, passed=alike, said=said)

    def demand(self, part: str, what: str, out: Path, ended: Ended) -> None:
        """Whether the command ended well, with the same numbers, and needed no advice."""
        if ended.code == 0:
            self._compare(part, what, out)
        else:
            said = " | ".join(ended.said).replace(str(self.top), "")[-600:]
            self.note(part, what, f"code {ended.code}, not done", passed=False, said=said)

    def _compare(self, part: str, what: str, out: Path) -> None:
        alike = numbers(out) == self.same
        self.note(part, what, "same numbers" if alike else "OTHER NUMBERS", passed=alike)

    # kills

    def kill(self, runs: int) -> None:
        """SIGKILL in every stage in turn, a third of the runs twice; then the same command."""
        out, stages = self.top / "killed", ["", *self.stages]
        for number in range(runs):
            at, first = number % len(stages), None
            while first is None:  # it may have ended before the moment came
                shutil.rmtree(out, ignore_errors=True)
                first = self._kill(out, stages[at])
            again = self.random.random() < 1 / 3
            second = self._kill(out, self.random.choice(stages[at:])) if again else None
            what = f"run {number}, killed {first}" + (f" and {second}" if second else "")
            self.demand("kills", what, out, self.command.run(out))
            left = sorted(_names(out) - _names(self.whole))
            if left:
                self.note("kills", what, f"left over: {left}", passed=False)

    def _kill(self, out: Path, stage: str) -> str | None:
        """Kill a run somewhere in a stage and say where; None when it was done before."""
        moment = self.random.uniform(0, self.own[stage])
        ended = self.command.start(out).kill_in(stage, moment)
        if ended.code == 0:
            return None
        self.killed_in[re.sub(r"-\d+$", "", ended.stage) or "before the first stage"] += 1
        if ended.code != -signal.SIGKILL:
            self.note("kills", f"{ended}", "not killed, and not done", passed=False)
        return f"after {ended.seconds:.1f} s in {ended.stage or '-'}"

    # damage

    def damage(self) -> None:
        """Every kind of file of every finished stage, damaged before the next stage reads it."""
        advised: set[str] = set()
        for path in self._one_of_each_kind(self.whole / "stages"):
            stage = path.parts[0][:-11]
            following = [*self.stages, ""][self.stages.index(stage) + 1]
            for how, do in DAMAGE.items():
                out = self._copy(self.whole)
                do(out / "stages" / path)
                ended = self.command.run(out, *(("--from", following) if following else ()))
                # the advice is one of the stage's, however its files were damaged: followed once
                follow = None if stage in advised else ("--from", stage)
                advised.update([stage] if ended.code else [])
                what = f"{how} {_plain(path)}"
                self.judge("damage", what, out, ended, named=(path.name,), follow=follow)

    def unfinished(self) -> None:
        """Every kind of file of a stage that was killed half-way or right before its end."""
        lines = [line.split("/")[0] for line in self.renames.read_text().splitlines()]
        seen: set[str] = set()
        for stage in self.stages:
            kind = stage.split("-")[0]
            places = [at for at, name in enumerate(lines, 1) if name[:-11] == stage]
            if kind in seen:
                continue
            seen.add(kind)
            for where, at in {
                "half-way": places[len(places) // 2],
                "at its end": places[-1],
            }.items():
                killed = self.top / "half"
                shutil.rmtree(killed, ignore_errors=True)
                self.command.run(killed, kill_before=at)
                (folder,) = (killed / "stages").glob(f"{stage}-" + "[0-9a-f]" * 10)
                for path in self._one_of_each_kind(folder):
                    how = self.random.choice([*DAMAGE])
                    out = self._copy(killed)
                    DAMAGE[how](out / "stages" / folder.name / path)
                    what = f"{kind}, killed {where}: {how} {_plain(path)}"
                    ended, follow = self.command.run(out), ("--from", stage)
                    self.judge("unfinished", what, out, ended, named=(stage,), follow=follow)

    def _one_of_each_kind(self, top: Path) -> list[Path]:
        """Files whose paths differ in more than numbers, hashes and arms."""
        kinds: dict[str, list[Path]] = {}
        for path in sorted(path for path in top.rglob("*") if path.is_file()):
            if not path.name.startswith("."):
                kinds.setdefault(_plain(path.relative_to(top)), []).append(path.relative_to(top))
        return [self.random.choice(paths) for paths in kinds.values()]

    def _copy(self, folder: Path) -> Path:
        out = self.top / "copy"
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(folder, out)
        (out / "results.json").unlink(missing_ok=True)
        return out

    # disk

    def disk(self, runs: int) -> None:
        """Too little room, at random places; then room enough."""
        size = sum(path.stat().st_size for path in self.whole.rglob("*") if path.is_file())
        for number in range(runs):
            room = int(size * (number + self.random.random()) / runs)
            with _small_disk(self.top / "disk", room) as grow:
                limits = {} if grow is not None else {"largest": room // 10}
                kind = (
                    f"a disk of {room / MB:.1f} MB"
                    if grow is not None
                    else f"no file above {room / 10 / MB:.1f} MB (no disk could be mounted)"
                )
                out = self.top / "disk" / "out"
                ended = self.command.run(out, **limits)
                if grow is not None:
                    grow(3 * size)
                what = f"{kind} for {size / MB:.1f} MB, in {ended.stage}"
                self.judge("disk", what, out, ended, named=NO_ROOM)

    # two at once

    def two(self, runs: int) -> None:
        """A second command on the same folder, at random moments of the first."""
        for number in range(runs):
            out = self.top / "two"
            first = self.command.start(out)
            pause = 0.0 if number == 0 else self.random.uniform(0, self.seconds)
            time.sleep(pause)
            second = self.command.start(out)
            ends = [first.ended(WAIT_S), second.ended(WAIT_S)]
            done = [end for end in ends if end.code == 0]
            right = bool(done) and numbers(out) == self.same
            clear = all(
                end.code == 0 or (end.in_one_line and IN_USE in end.said[0]) for end in ends
            )
            said = " | ".join(line for end in ends for line in end.said).replace(str(self.top), "")
            outcome = f"codes {ends[0].code} and {ends[1].code}" + (", same numbers" * right)
            what = f"a second one {pause:.1f} s later"
            self.note("two", what, outcome, passed=right and clear, said=said[-600:])
            shutil.rmtree(out)


def _last(order: Sequence[str], name: str) -> int:
    return len(order) - 1 - list(reversed(order)).index(name)


def _plain(path: Path) -> str:
    """A path without numbers and hashes; arms of one kind of stage are one."""
    stage, *rest = path.parts
    if re.search(r"-[0-9a-f]{10}$", stage):
        stage = stage[:-11].split("-")[0]
    return re.sub(r"\d+", "#", "/".join([stage, *rest]))


def _names(out: Path) -> set[str]:
    """Paths of all files, without what names of logs say of time and process."""
    found = (path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    return {re.sub(r"tfevents.*", "tfevents", name) for name in found}


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 8] = bytes(byte ^ 0xFF for byte in content[middle : middle + 8])
    path.write_bytes(content)


def _halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _empty(path: Path) -> None:
    os.truncate(path, 0)


DAMAGE: dict[str, Callable[[Path], None]] = {
    "flip 8 bytes of": _flip,
    "cut in half": _halve,
    "empty": _empty,
    "delete": Path.unlink,
}


@contextmanager
def _small_disk(folder: Path, room: int) -> Iterator[Callable[[int], None] | None]:
    """A file system of `room` bytes, and how to enlarge it; None where none may be mounted."""
    folder.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={room}", "faults", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        yield None
        shutil.rmtree(folder)
        return

    def grow(size: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)

    try:
        yield grow
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def _tiny_recipe(verb: str, folder: Path) -> Path:
    """The recipe of the tests: their `TINY` and `TRAIN`."""
    source = (Path(__file__).parent / SOURCES[verb]).read_text(encoding="utf-8")
    parts = re.findall(r'^(?:TINY|TRAIN) = """\n(.*?)"""', source, re.DOTALL | re.MULTILINE)
    path = folder / "tiny.toml"
    path.write_text("".join(parts), encoding="utf-8")
    return path


def faults(
    out: Path,
    *,
    verb: Literal["cocu", "pixelclip"] = "cocu",
    kills: int = 30,
    disks: int = 10,
    pairs: int = 6,
    seed: int = 0,
    parts: str = PARTS,
    work: Path | None = None,
) -> int:
    """Break the command in every way, and write what came of it, also when this breaks off.

    Args:
        out: JSON file for all cases; a table goes beside it, as Markdown.
        verb: of the command.
        kills: runs that are killed.
        disks: runs on a disk that is too small.
        pairs: pairs of commands on one folder.
        seed: of moments and choices.
        parts: comma-separated, what of the trial to do.
        work: folder to work in, kept, with unbroken runs to be used again; a temporary one when
            left out.
    """
    began = time.perf_counter()
    options = f"--verb {verb} --kills {kills} --disks {disks} --pairs {pairs} --seed {seed}"
    command = f"python tests/integration/faults.py OUT.json {options} --parts {parts}"
    with tempfile.TemporaryDirectory() as temporary:
        top = (work or Path(temporary)).resolve()
        (top / "logs").mkdir(parents=True, exist_ok=True)
        trial = Trial(Command(verb, _tiny_recipe(verb, top), top / "logs"), top, seed)
        todo: dict[str, Callable[[], None]] = {
            "kills": lambda: trial.kill(kills),
            "damage": trial.damage,
            "unfinished": trial.unfinished,
            "disk": lambda: trial.disk(disks),
            "two": lambda: trial.two(pairs),
        }
        broken_off: str | None = None
        try:
            for part in parts.split(","):
                broken_off = f"in {part}"
                todo[part]()
            broken_off = None
        finally:  # hours of cases are not lost to an error in one of them
            found = _found(trial, command, time.perf_counter() - began, broken_off)
            out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            out.with_suffix(".md").write_text(markdown(found), encoding="utf-8")
    shown = {name: found[name] for name in ("passed", "failed", "outcomes")}
    print(json.dumps(shown, indent=1))  # noqa: T201  # a command
    return 1 if found["failed"] else 0


def _found(trial: Trial, command: str, seconds: float, broken_off: str | None) -> dict[str, Any]:
    """What is written."""
    wrong = sum(not case.passed for case in trial.cases)
    return {
        "commands": [command],
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} CPU cores, {platform.system()} {platform.machine()}",
        "seconds_of_one_run": round(trial.seconds, 1),
        "seconds_in_all": round(seconds),
        "broken_off": broken_off,
        "passed": len(trial.cases) - wrong,
        "failed": wrong,
        "killed_in": dict(sorted(trial.killed_in.items())),
        "outcomes": _outcomes(trial.cases),
        "cases": [asdict(case) for case in trial.cases],
    }


def markdown(found: Mapping[str, Any]) -> str:
    """The table of what was found, and every case that failed."""
    off = f" The trial broke off {found['broken_off']}." if found["broken_off"] else ""
    rows = [
        f"| {FAULTS[part]} | {', '.join(f'{n} x {outcome}' for outcome, n in counts.items())} |"
        for part, counts in found["outcomes"].items()
    ]
    killed = ", ".join(f"{stage} {n}" for stage, n in found["killed_in"].items())
    failed = [
        f"- Failed: {case['part']}, {case['what']}: {case['outcome']} {case['said']}".rstrip()
        for case in found["cases"]
        if not case["passed"]
    ]
    return "\n".join(
        [
            "# Faults of `reproduce`",
            "",
            "On the tests' tiny recipe. When a case passes is said in tests/integration/faults.py.",
            "",
            *["```", *found["commands"], "```", ""],
            f"{found['date']}, {found['machine']}. {found['passed']} cases passed, "
            f"{found['failed']} failed.{off}",
            "",
            *["| fault | outcome |", "|---|---|", *rows],
            *(["", f"Stages in which kills fell: {killed}."] if killed else []),
            *(["", *failed] if failed else []),
            "",
        ]
    )


def _outcomes(cases: Sequence[Case]) -> dict[str, dict[str, int]]:
    """Cases by part and outcome."""
    found: dict[str, Counter[str]] = {}
    for case in cases:
        found.setdefault(case.part, Counter())[case.outcome] += 1
    return {part: dict(counts) for part, counts in found.items()}


if __name__ == "__main__":
    sys.exit(auto_cli(faults, as_positional=True))
