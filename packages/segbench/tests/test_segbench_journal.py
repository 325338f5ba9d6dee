"""The journal of an evaluation: whole lines count, others are done again."""

from pathlib import Path

import numpy as np
import pytest

from segbench.errors import FormatError, UsageError
from segbench.running.journal import Entry, Journal

WHAT = {"task": "abc", "model": {"name": "m"}, "data": {"images": 3}}


def entry(index: int) -> Entry:
    matrix = np.zeros((3, 3), np.int64)
    matrix[index % 3, 1], matrix[2, 2] = index + 5, 2**40
    return Entry.of(index, f"image {index}", "f00", matrix)


def same(first: Entry, second: Entry) -> bool:
    return first.to_line() == second.to_line()


def written(folder: Path, *indices: int) -> Path:
    """The part that holds these entries."""
    journal = Journal(folder, WHAT)
    for index in indices:
        journal.add(entry(index))
    journal.close()
    return max(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)


def test_what_was_added_is_read_again_from_all_parts(tmp_path: Path) -> None:
    written(tmp_path, 2, 0)
    journal = Journal(tmp_path, WHAT)
    journal.add(Entry.unreadable(1, "a.png: cannot be decoded"))
    journal.close()
    again = Journal(tmp_path, WHAT).done
    assert sorted(again) == [0, 1, 2] and len(list(tmp_path.iterdir())) == 2
    assert same(again[2], entry(2)) and same(again[0], entry(0))
    assert again[1].skipped == "a.png: cannot be decoded" and again[2].counts.max() == 2**40


@pytest.mark.parametrize("cut", [1, 2, 30, 90])
def test_a_line_that_was_being_written_is_passed_over(tmp_path: Path, cut: int) -> None:
    part = written(tmp_path, 0, 1)
    part.write_bytes(part.read_bytes()[:-cut])
    assert list(Journal(tmp_path, WHAT).done) == [0]
    written(tmp_path, 1)
    assert sorted(Journal(tmp_path, WHAT).done) == [0, 1]


def test_a_part_without_a_whole_line_is_empty(tmp_path: Path) -> None:
    part = written(tmp_path, 0)
    for left in (0, 1, 40):
        part.write_bytes(part.read_bytes()[:left])
        assert Journal(tmp_path, WHAT).done == {}


def test_a_damaged_line_in_the_middle_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    part = written(tmp_path, 0, 1, 2)
    lines = part.read_bytes().split(b"\n")
    lines[2] = lines[2].replace(b"image 1", b"image 7")
    part.write_bytes(b"\n".join(lines))
    with pytest.raises(FormatError, match=r"jsonl: line 3 is damaged; delete the file"):
        Journal(tmp_path, WHAT)


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"task": "abd"}, "its task is 'abc', not 'abd'"),
        ({"model": {"name": "n"}}, "its model is"),
        ({"data": {"images": 4}}, "its data is"),
    ],
)
def test_a_journal_of_another_evaluation_is_refused(
    tmp_path: Path, other: dict[str, object], told: str
) -> None:
    written(tmp_path, 0)
    with pytest.raises(UsageError, match=f"of another evaluation .{told}"):
        Journal(tmp_path, WHAT | other)
