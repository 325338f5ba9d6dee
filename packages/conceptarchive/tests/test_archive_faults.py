"""Faults that a cluster meets, through the public commands.

Each time: the exit code, one line that names the file, no damaged file under a final name, and,
once the fault is mended and the command is run again, the files of a run without trouble.
"""

import ctypes
import gzip
import io
import itertools
import os
import resource
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conceptarchive.building import build as building
from conceptarchive.cli import main
from conceptarchive.features import sources
from conceptarchive.lock import folder_lock
from conceptarchive.options import EncoderConfig

MakeTar = Callable[[Path, list[tuple[str, bytes]]], Path]
Jpeg = Callable[[int], bytes]

WORDS = ("dog", "cat", "grass", "car", "boat", "tree", "house")
SHARDS, PAIRS = 3, 6
NOTES = {"embed.json", "failed.tsv", "manifest.json"}  # say what is there; differ until it is done
CAPABILITIES_V3, OVERRIDES = 0x20080522, 0b110  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
PAGE = resource.getpagesize()
ONE_FOLDER = HealthCheck.function_scoped_fixture
WHOLE: dict[str, bytes] = {}  # every file of a run without trouble, by its path below `out`

IN_A_PROCESS = """
import pathlib, runpy, sys, time
from conceptarchive.cli import main
from conceptarchive.options import EncoderConfig
encoder = runpy.run_path(sys.argv[1])["TinyEncoder"]()
encode, wait = encoder.encode_images, pathlib.Path(sys.argv[2])
def encode_images(images):
    while wait.exists():
        time.sleep(0.02)
    return encode(images)
encoder.encode_images = encode_images
EncoderConfig.load = lambda *_: encoder
sys.exit(main(sys.argv[3:]))
"""


@dataclass
class Work:
    """Three shards of pairs, and the commands that make an archive of them."""

    top: Path
    capsys: pytest.CaptureFixture[str]

    def __post_init__(self) -> None:
        self.out = self.top / "out"
        emb, archive, wds = (str(self.out / name) for name in ("emb", "archive", "wds"))
        self.embed = ["embed", f"{self.top}/cc/{{0..{SHARDS - 1}}}.tar", emb]
        rows = ["--vocabulary.file", f"{self.top}/words.txt", "--shard_rows", "7"]
        rows += ["--concept_features", f"{self.top}/words.npy", "--archive.neighbours", "3"]
        self.build = ["build", emb, archive, *rows]
        self.export = ["export", archive, wds, "--layout=webdataset", f"--pairs={self.top}/cc"]
        self.commands = [self.embed, self.build, self.export]

    def run(self, args: Sequence[str]) -> tuple[int, str]:
        """The exit code of a command, and what it said on standard error."""
        self.capsys.readouterr()
        return main(args), self.capsys.readouterr().err

    def refused(self, args: Sequence[str], code: int, *told: str, rows: bool = True) -> None:
        """Run a command that cannot: one line says why, and nothing damaged is left."""
        ended, error = self.run(args)
        assert ended == code, error
        assert error.startswith("conceptarchive: ")
        assert error.count("\n") == 1
        assert all(part in error for part in told), error
        self.is_sound(rows=rows)

    def is_sound(self, *, rows: bool = True) -> None:
        """Every file under a final name, except damaged rows, is that of a run without trouble."""
        for name, data in files(self.out).items():
            path = Path(name)
            assert path.suffix != ".part"
            is_note = path.name in NOTES or ".lock" in path.stem or path.parts[1] == "work"
            if not is_note and (rows or path.parts[1] != "img_emb"):
                assert data == WHOLE[name], name

    def ends_whole(self) -> None:
        """Run all commands, which can now: all files are those of a run without trouble."""
        for args in self.commands:
            assert self.run(args) == (0, "")
        assert files(self.out) == WHOLE


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    found = sorted(folder.rglob("*"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in found if path.is_file()}


@pytest.fixture
def work(
    tmp_path: Path, make_tar: MakeTar, jpeg: Jpeg, monkeypatch: pytest.MonkeyPatch,
    tiny_encoder: object, capsys: pytest.CaptureFixture[str],
) -> Work:  # fmt: skip
    """Pairs that nothing was made of yet."""
    monkeypatch.setattr(EncoderConfig, "load", lambda *_: tiny_encoder)
    for shard in range(SHARDS):
        numbers = range(shard * PAIRS, (shard + 1) * PAIRS)
        make_tar(tmp_path / "cc" / f"{shard}.tar", pairs(numbers, jpeg))
    (tmp_path / "words.txt").write_text("\n".join(WORDS), encoding="utf-8")
    np.save(tmp_path / "words.npy", np.random.default_rng(0).standard_normal((len(WORDS), 12)))
    made = Work(tmp_path, capsys)
    if not WHOLE:  # no file holds a path: they are the same for all tests
        for args in made.commands:
            assert made.run(args) == (0, "")
        assert made.run(["check", str(made.out / "archive")]) == (0, "")
        WHOLE.update(files(made.out))
        shutil.rmtree(made.out)
    return made


def pairs(numbers: range, jpeg: Jpeg) -> list[tuple[str, bytes]]:
    """Pictures, each with a caption of two words."""
    images = [(f"{n:03d}.jpg", jpeg(n)) for n in numbers]
    texts = [(f"{n:03d}.txt", f"{WORDS[n % 7]}, {WORDS[n * n % 7]}".encode()) for n in numbers]
    return sorted(images + texts)


DAMAGED_TARS: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda data: data[: len(data) // 2],
    "cut between members": lambda data: data[: 2 * 512 * 4],
    "empty": lambda _: b"",
    "no tar": lambda _: b"<html>503 Service Unavailable</html>" * 40,
    "cut gzip": lambda data: gzip.compress(data)[:-20],
}


@pytest.mark.parametrize("damage", DAMAGED_TARS)
def test_a_damaged_tar_is_named_and_can_be_mended(work: Work, damage: str) -> None:
    shard = work.top / "cc" / "1.tar"
    whole = shard.read_bytes()
    shard.write_bytes(DAMAGED_TARS[damage](whole))
    work.refused(work.embed, 1, str(shard))
    assert (work.out / "emb/metadata/metadata_00000.parquet").exists()  # what came before is kept
    work.refused(work.build, 4, "1 of 3 shards are embedded; run embed again")
    work.refused(work.embed, 1, str(shard))
    shard.write_bytes(whole)
    work.ends_whole()


def test_a_missing_or_changed_shard_is_named(work: Work, make_tar: MakeTar, jpeg: Jpeg) -> None:
    shard, away = work.top / "cc" / "1.tar", work.top / "1.tar"
    shard.rename(away)
    work.refused(work.embed, 3, str(shard), "1 of the 3 names")
    assert not work.out.exists()
    away.rename(shard)
    assert work.run(work.embed) == (0, "")
    shard.rename(away)
    work.refused(work.embed, 3, str(shard))
    work.refused(["embed", str(shard.parent), str(work.out / "emb")], 1, "'cc/1' is not given now")
    make_tar(shard, pairs(range(50, 56), jpeg))
    work.refused(work.embed, 1, "'cc/1' has changed since it was embedded")
    away.rename(shard)
    work.ends_whole()


def test_changed_rows_are_refused_midway_and_at_the_end(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    rows = work.out / "emb/img_emb/img_emb_00001.npy"
    assert work.run(work.embed) == (0, "")
    whole = rows.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(building, "write_shard", stopped)
        work.refused(work.build, 4, "stopped; run it again to go on")
    for _ in range(2):
        np.save(rows, np.load(rows)[::-1])
        work.refused(work.build, 1, "out/archive: begun with another anchors_sha256", rows=False)
        rows.write_bytes(whole)
        assert work.run(work.build) == (0, "")
    work.ends_whole()


def scale_last(path: Path, factor: float) -> None:
    """Multiply the last row of a file of rows."""
    rows = np.load(path)
    rows[-1] *= np.float16(factor)
    np.save(path, rows)


DAMAGED_ROWS: dict[str, Callable[[Path], object]] = {  # by what is said of them
    "is empty (0 bytes)": lambda path: path.write_bytes(b""),
    "is cut short, 1 bytes": lambda path: os.truncate(path, path.stat().st_size - 1),
    "cannot be read": lambda path: path.write_bytes(b"x" * 999),
    "row 5: must be of length 1, holds NaN": lambda path: scale_last(path, np.nan),
    "row 5: must be of length 1, holds zeros": lambda path: scale_last(path, 0),
    "row 5: must be of length 1, got 2": lambda path: scale_last(path, 2),
    "different widths, 13": lambda path: np.save(path, np.eye(PAIRS, 13, dtype=np.float16)),
    "needs (n, D) float16 or float32": lambda path: np.save(path, np.eye(PAIRS, 12, dtype=int)),
    "has 5 rows": lambda path: np.save(path, np.load(path)[:-1]),
    "partition 1 is not in both": lambda path: path.unlink(),
}


@pytest.mark.parametrize("told", DAMAGED_ROWS)
def test_damaged_rows_are_named_and_made_again(
    work: Work, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "FIRST_ROWS", 1)  # of a partition: the others when a build begins
    assert work.run(work.embed) == (0, "")
    rows = work.out / "emb/img_emb/img_emb_00001.npy"
    DAMAGED_ROWS[told](rows)
    work.refused(work.build, 1, "_00001.", told, rows=False)
    assert not (work.out / "archive/manifest.json").exists()
    rows.unlink(missing_ok=True)
    work.ends_whole()  # embed makes what is not there


@settings(max_examples=25, deadline=None, suppress_health_check=[ONE_FOLDER])
@given(data=st.data())
def test_any_cut_file_of_embeddings_is_named_and_made_again(
    work: Work, data: st.DataObject
) -> None:
    assert work.run(work.embed) == (0, "")
    names = [name for name in sorted(files(work.out)) if Path(name).name not in NOTES]
    path = work.out / data.draw(st.sampled_from(names))
    whole = path.read_bytes()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    ended, error = work.run([*work.build, "--dry_run", "true"])
    assert (ended, error.count("\n")) == (1, 1)
    assert error.startswith(f"conceptarchive: {path}: ")
    path.unlink()
    assert work.run(work.embed) == (0, "")
    assert path.read_bytes() == whole


@contextmanager
def as_anyone() -> Iterator[None]:
    """Obey the modes of files, as root does not unless it lays down two capabilities."""
    libc = ctypes.CDLL(None)
    header, sets = (ctypes.c_uint32 * 2)(CAPABILITIES_V3, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, sets) == 0
    effective, sets[0] = sets[0], sets[0] & ~OVERRIDES
    assert libc.capset(header, sets) == 0
    try:
        yield
    finally:
        sets[0] = effective
        assert libc.capset(header, sets) == 0


UNREADABLE = {  # exit code, commands that have been run, command that cannot
    "cc/1.tar": (3, 0, 0),
    "words.npy": (1, 1, 1),
    "out/emb/embed.json": (1, 1, 1),
    "out/emb/img_emb/img_emb_00001.npy": (1, 1, 1),
    "out/emb/metadata/metadata_00001.parquet": (1, 1, 1),
    "out/archive/archive-00001.arrow": (1, 2, 2),
    "out/wds/export.json": (1, 3, 2),
}


@pytest.mark.skipif(sys.platform != "linux", reason="capabilities are Linux's")
@pytest.mark.parametrize("name", UNREADABLE)
def test_an_unreadable_file_is_named(work: Work, name: str) -> None:
    (code, done, failing), path = UNREADABLE[name], work.top / name
    for args in work.commands[:done]:
        assert work.run(args) == (0, "")
    path.chmod(0)
    with as_anyone():
        with pytest.raises(PermissionError):
            path.read_bytes()
        ended, error = work.run(work.commands[failing])
    path.chmod(0o644)
    assert (ended, error.count("\n")) == (code, 1)
    assert error.startswith(f"conceptarchive: {path}: ")
    assert "ermission denied" in error
    work.ends_whole()


def run_as_far_as_it_goes(work: Work) -> str:
    """Run all commands; the one that stopped, in one clear line, for lack of room."""
    for args in work.commands:
        ended, error = work.run(args)
        if ended:
            assert (ended, error.count("\n")) == (4, 1)
            assert error.startswith(f"conceptarchive: {work.out}")
            assert "cannot be written" in error or "no folder to write to" in error
            return args[0]
        assert error == ""
    return "none"


def test_files_that_do_not_fit_are_named_and_written_later(work: Work) -> None:
    stopped, limits = [], resource.getrlimit(resource.RLIMIT_FSIZE)
    for size in (*range(100, 4000, 300), 10_000, 100_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        try:
            stopped.append(run_as_far_as_it_goes(work))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        work.is_sound()
    assert list(dict.fromkeys(stopped)) == ["embed", "build", "export", "none"]
    work.ends_whole()


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A file system of one page in this folder."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={PAGE}", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted here ({done.stderr.strip()})")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("mount") is None, reason="needs mount")
def test_a_disk_that_fills_up_loses_nothing(work: Work) -> None:
    stopped, used, free = [], 0, 0
    with small_disk(work.out):
        while "none" not in stopped:
            disk = os.statvfs(work.out)
            before, used = used, disk.f_blocks - disk.f_bfree
            free = free + 1 if used == before else 1  # pages
            size = f"remount,size={(used + free) * PAGE}"
            subprocess.run(["mount", "-o", size, str(work.out)], check=True)
            stopped.append(run_as_far_as_it_goes(work))
            work.is_sound()
        assert set(stopped) == {"embed", "build", "export", "none"}
        assert files(work.out) == WHOLE


@pytest.mark.slow
def test_a_second_process_on_a_folder_is_told_who_works_there(work: Work) -> None:
    wait, made = work.top / "wait", Path(__file__).with_name("conftest.py")
    wait.touch()
    command = [sys.executable, "-c", IN_A_PROCESS, str(made), str(wait), *work.embed]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as first:
        while not (work.out / "emb/embed.json").exists():
            assert first.poll() is None
            time.sleep(0.02)
        work.refused(work.embed, 2, f"process {first.pid} on", str(work.out / "emb"))
        wait.unlink()
        assert (first.communicate(timeout=60)[1], first.returncode) == (b"", 0)
    for folder, args in (("archive/work", work.build), ("wds", work.export)):
        with folder_lock(work.out / folder):  # as another process has it
            work.refused(args, 2, f"process {os.getpid()} on", str(work.out / folder))
        assert work.run(args) == (0, "")
    work.ends_whole()


def test_malicious_members_are_counted_and_go_nowhere(
    work: Work, jpeg: Jpeg, caplog: pytest.LogCaptureFixture
) -> None:
    names = ["../../evil", "/tmp/evil", "a/../../evil", "C:/evil", "a\\evil", "evil\n1", "evil\x1b"]
    kinds = {"link": tarfile.SYMTYPE, "hard": tarfile.LNKTYPE, "pipe": tarfile.FIFOTYPE}
    members = dict.fromkeys(names, tarfile.REGTYPE) | kinds
    with tarfile.open(work.top / "cc" / "1.tar", "a") as tar:
        for (name, kind), suffix in itertools.product(members.items(), (".jpg", ".txt")):
            info = tarfile.TarInfo(name + suffix)
            info.type, info.linkname = kind, "/etc/passwd"
            info.size = len(jpeg(0)) if name in names else 0
            tar.addfile(info, io.BytesIO(jpeg(0)) if name in names else None)
    for args in work.commands:
        assert work.run(args) == (0, "")
    assert {path.name for path in work.top.iterdir()} == {"cc", "out", "words.npy", "words.txt"}
    assert not any("evil" in name for name in files(work.top))
    left_out = (work.out / "emb/failed.tsv").read_text(encoding="utf-8").splitlines()[1:]
    assert len(left_out) == len(names) + len(kinds)
    assert all(line.startswith(f"{work.top}/cc/1.tar\t") for line in left_out)
    told = [line for line in caplog.messages if "skipped 10 pairs: 7 unsafe name" in line]
    assert [line.isprintable() for line in told] == [True, True]  # by embed and by export
    for name in ("archive", "wds"):
        made = {path: data for path, data in files(work.out).items() if path.startswith(name)}
        assert made == {path: data for path, data in WHOLE.items() if path.startswith(name)}
