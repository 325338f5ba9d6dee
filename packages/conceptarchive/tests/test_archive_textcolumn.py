import pickle
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conceptarchive import FormatError
from conceptarchive.errors import DataMissingError
from conceptarchive.features.textcolumn import TextColumn, TextFile
from conceptarchive.keyhash import find_repeated, hash_key, hash_keys


def store(folder: Path, parts: list[list[str | None]], *, prefix: str = "") -> list[TextFile]:
    files = []
    for number, texts in enumerate(parts):
        path = folder / f"{number:04d}.parquet"
        pq.write_table(pa.table({"other": texts, "text": pa.array(texts, pa.string())}), path)
        files.append(TextFile(path, len(texts), "text", prefix))
    return files


@settings(deadline=None)
@given(st.lists(st.lists(st.text(max_size=4), max_size=5), min_size=1, max_size=5), st.data())
def test_files_read_as_one_list(parts: list[list[str]], data: st.DataObject) -> None:
    expected = [text for part in parts for text in part]
    with TemporaryDirectory() as folder:
        column = TextColumn(store(Path(folder), [list(part) for part in parts]))
        count = len(expected)
        start, stop = (data.draw(st.integers(-count - 2, count + 2)) for _ in range(2))
        assert column[start:stop] == expected[start:stop]
        assert list(column) == expected
        assert column == expected
        assert len(column) == count
        assert [column[row] for row in range(-count, count)] == expected + expected
        assert pickle.loads(pickle.dumps(column)) == expected
        assert hash_keys(column).tolist() == [hash_key(text) for text in expected]
        assert column != [*expected, "more"]


def test_prefixes_and_nulls(tmp_path: Path) -> None:
    files = store(tmp_path, [["a", None], ["b"]], prefix="set/")
    column = TextColumn(files, nullable=True)
    assert column == ["set/a", "set/", "set/b"]
    assert hash_keys(column)[2] == hash_key("set/b")
    assert column.where(2) == f"{tmp_path / '0001.parquet'}, row 0"
    with pytest.raises(FormatError, match=r"0000\.parquet: row 1 has no 'text'"):
        TextColumn(files)[0]


def test_numbers_and_categories_become_text(tmp_path: Path) -> None:
    words = pa.array(["a", "b", "a"]).dictionary_encode()
    pq.write_table(pa.table({"n": [7, 8, 9], "word": words}), tmp_path / "a.parquet")
    assert TextColumn([TextFile(tmp_path / "a.parquet", 3, "n")]) == ["7", "8", "9"]
    assert TextColumn([TextFile(tmp_path / "a.parquet", 3, "word")]) == ["a", "b", "a"]


def test_a_column_of_many_row_groups(tmp_path: Path) -> None:
    texts = [str(n) for n in range(100)]
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet", row_group_size=7)
    column = TextColumn([TextFile(tmp_path / "a.parquet", 100, "text")])
    assert column[5:23] == texts[5:23]
    assert find_repeated(column) is None


def test_row_groups_read_as_files(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    texts = [None if n == 8 else str(n) for n in range(10)]
    pq.write_table(pa.table({"text": texts}), path, row_group_size=4)
    groups = [TextFile(path, rows, "text", "", at, 4 * at) for at, rows in enumerate([4, 4, 2])]
    column = TextColumn(groups, nullable=True)
    assert column == [text or "" for text in texts]
    assert column.where(9) == f"{path}, row 9"
    with pytest.raises(FormatError, match="row 8 has no 'text'"):
        TextColumn(groups)[:]
    with pytest.raises(FormatError, match="cannot be read"):
        TextColumn([TextFile(path, 4, "text", "", 3, 12)])[:]


def test_files_are_read_once_when_ranges_come_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    column = TextColumn(store(tmp_path, [["a", "b", "c"]] * 5))
    reads: list[Path] = []
    whole = pq.ParquetFile

    def counted(path: Path) -> pq.ParquetFile:
        reads.append(path)
        return whole(path)

    monkeypatch.setattr(pq, "ParquetFile", counted)
    assert [column[at : at + 2] for at in range(0, 15, 2)][-1] == ["c"]
    assert len(reads) == 5


def test_damage_and_change_are_named(tmp_path: Path) -> None:
    files = store(tmp_path, [["a"], ["b"]])
    path = files[1].path
    with pytest.raises(FormatError, match=r"0001\.parquet: changed while in use, from 2 to 1 rows"):
        TextColumn([files[0], TextFile(path, 2, "text")])[:]
    with pytest.raises(FormatError, match=r"column 'none' cannot be read"):
        TextColumn([TextFile(path, 1, "none")])[:]
    pq.write_table(pa.table({"text": [[1]]}), path)
    with pytest.raises(FormatError, match=r"column 'text' cannot be read"):
        TextColumn(files)[:]
    pq.write_table(pa.table({"text": pa.array([b"\xff"], pa.binary())}), path)
    with pytest.raises(FormatError, match=r"column 'text' cannot be read"):
        TextColumn(files)[:]
    broken = pa.Array.from_buffers(
        pa.large_string(),
        1,
        [None, pa.array([0, 1], pa.int64()).buffers()[1], pa.py_buffer(b"\xff")],
    )
    pq.write_table(pa.table({"text": broken}), path)
    with pytest.raises(FormatError, match=r"0001\.parquet: column 'text' cannot be read .*UTF8"):
        TextColumn(files)[:]
    path.write_bytes(b"")
    with pytest.raises(FormatError, match=r"column 'text' cannot be read"):
        TextColumn(files)[:]
    path.unlink()
    with pytest.raises(DataMissingError, match=r"0001\.parquet: is missing"):
        TextColumn(files)[:]


def test_wrong_rows_are_refused(tmp_path: Path) -> None:
    column = TextColumn(store(tmp_path, [["a"], ["b"]]))
    with pytest.raises(IndexError, match="below 2, got 2"):
        column[2]
    with pytest.raises(ValueError, match="step 1, got -1"):
        column[::-1]
    assert column != "ab"
    assert repr(column) == "TextColumn(2 texts of 2 files)"
