"""Checksums: what is damage, and what is not."""

from pathlib import Path

import pytest

from integration.checksums import checksums, find_damage

EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
"""SHA-256 of nothing."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "b.npy").write_bytes(b"12345678")
    (tmp_path / "a.json").write_bytes(b"")
    return tmp_path


def test_files_are_listed_by_path_with_their_sha256(folder: Path) -> None:
    found = checksums(folder)
    assert [*found] == ["a.json", "deep/b.npy"]
    assert found["a.json"] == EMPTY
    assert find_damage(folder, found) is None


def test_locks_and_files_of_killed_writers_are_left_out(folder: Path) -> None:
    (folder / ".lock").touch()
    (folder / ".half").mkdir()
    (folder / ".half" / "state.pt").touch()
    (folder / "c.json.tmp").touch()
    (folder / "c.arrow.1f.part").touch()
    assert [*checksums(folder)] == ["a.json", "deep/b.npy"]


def test_one_bit_is_damage_and_another_file_is_none(folder: Path) -> None:
    noted = checksums(folder)
    (folder / "more").write_text("x")
    assert find_damage(folder, noted) is None
    (folder / "deep" / "b.npy").write_bytes(b"12345679")
    found = find_damage(folder, noted)
    assert found == f"{folder / 'deep' / 'b.npy'}: is not as it was written (8 bytes now)"


def test_a_file_that_is_gone_is_damage(folder: Path) -> None:
    noted = checksums(folder)
    (folder / "a.json").unlink()
    assert find_damage(folder, noted) == f"{folder / 'a.json'}: is gone"
