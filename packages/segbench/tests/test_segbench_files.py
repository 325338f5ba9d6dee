"""Files that are written: whole, as readable as the umask says; folders that go."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from segbench import Segmenter, evaluate, load_task, write_page
from segbench.files import remove_folder, write_atomically


@pytest.fixture(params=[0o022, 0o027, 0o077], ids=oct)
def mask(request: pytest.FixtureRequest) -> Iterator[int]:
    """The umask while a test runs."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_every_file_of_a_run_is_as_readable_as_the_umask_says(
    painted: Segmenter,
    mini: Path,
    mini_task: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mask: int,
) -> None:
    out, task, bank = tmp_path / "out", load_task(mini_task), tmp_path / "bank"
    monkeypatch.setattr(type(painted), "fingerprint", "1", raising=False)
    evaluate(painted, task, root=mini, out=out, save_pred=True, overlays=1, bank_cache=bank)
    write_page(out, root=mini, task=task)
    files = [path for folder in (out, bank) for path in folder.rglob("*") if path.is_file()]
    names = {path.relative_to(tmp_path).as_posix() for path in files}
    assert {"out/results.json", "out/confusion.npy", "out/per_image.npz", "out/page.html"} < names
    assert {"out/predictions/a.png", "out/overlays/a.png"} < names and len(names) == 8
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o666 & ~mask}


def test_a_failed_write_leaves_the_old_file_and_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("segbench.files.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_folder_goes_with_all_that_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/c").write_text("c")
    remove_folder(tmp_path / "a")
    remove_folder(tmp_path / "a")  # there is none
    assert not list(tmp_path.iterdir())
