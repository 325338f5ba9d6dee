import json
import multiprocessing
from pathlib import Path

import pytest

from maskcluster.errors import FormatError, MaskClusterError, UsageError
from maskcluster.files import (
    folder_lock,
    hash_file,
    hash_json,
    read_json,
    replacing,
    sweep,
    write_json,
    write_text,
)


def test_a_file_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with replacing(path) as part:
        part.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyError), replacing(path) as part:
        part.write_text("half")
        raise KeyError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(MaskClusterError, match="cannot be written"):
        write_text(tmp_path / "none" / "a.txt", "x")


def test_sweep_removes_only_parts(tmp_path: Path) -> None:
    (tmp_path / "a.1234.part").write_text("half")
    (tmp_path / "a").write_text("whole")
    sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_json_is_written_the_same_for_the_same_value(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1, "a": [2]})
    write_json(tmp_path / "b.json", {"a": [2], "b": 1})
    assert hash_file(tmp_path / "a.json") == hash_file(tmp_path / "b.json")
    assert read_json(tmp_path / "a.json") == {"a": [2], "b": 1}
    assert hash_json({"b": 1, "a": 2}) == hash_json(json.loads('{"a":2,"b":1}'))
    assert hash_json(1) != hash_json("1")


def test_a_missing_or_broken_file_is_a_format_error(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="cannot be read"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(FormatError, match="not JSON"):
        read_json(tmp_path / "a.json")


def _try_to_hold(folder: Path) -> str:
    try:
        with folder_lock(folder):
            return "held"
    except UsageError as error:
        return str(error)


def test_a_second_process_is_kept_out(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        with folder_lock(tmp_path / "a"):
            found = pool.apply(_try_to_hold, (tmp_path / "a",))
            assert "another process writes here" in found
        assert pool.apply(_try_to_hold, (tmp_path / "a",)) == "held"
    assert list((tmp_path / "a").iterdir()) == []
