import pickle
import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conceptarchive import DataMissingError, Embeddings, FormatError, IncompleteError
from conceptarchive.features.embeddings import write_partition

MakeRows = Callable[[int, int, int], npt.NDArray[np.float32]]


def write(folder: Path, rows: npt.NDArray[np.float32], parts: int, *, text: bool = False) -> None:
    for number, index in enumerate(np.array_split(np.arange(len(rows)), parts)):
        columns = {
            "image_path": [f"{n}" for n in index],
            "caption": [f"caption {n}" for n in index],
            "id": [f"set/a/{n}" for n in index],
        }
        arrays = {"img_emb": rows[index]} | ({"text_emb": -rows[index]} if text else {})
        write_partition(folder, f"{number:02d}", columns, arrays, {})


def test_partitions_are_joined_in_order(tmp_path: Path, unit_rows: MakeRows) -> None:
    rows = unit_rows(23, 8, 0)
    write(tmp_path / "one", rows, 1, text=True)
    write(tmp_path / "many", rows, 12, text=True)
    one, many = Embeddings.open(tmp_path / "one"), Embeddings.open(tmp_path / "many")
    assert isinstance(one.image, np.memmap)
    assert one.keys == many.keys == [f"set/a/{n}" for n in range(23)]
    assert many.captions[22] == "caption 22"
    np.testing.assert_array_equal(many.image, rows.astype(np.float16))
    assert many.text is not None
    np.testing.assert_array_equal(many.text, -rows.astype(np.float16))
    assert one.sha256 == many.sha256


def test_folder_of_clip_retrieval(tmp_path: Path, unit_rows: MakeRows) -> None:
    (tmp_path / "img_emb").mkdir()
    (tmp_path / "metadata").mkdir()
    np.save(tmp_path / "img_emb" / "img_emb_0.npy", unit_rows(2, 8, 0).astype(np.float16))
    table = pa.table({"image_path": ["000", "001"], "caption": ["a dog", None], "url": ["", ""]})
    pq.write_table(table, tmp_path / "metadata" / "metadata_0.parquet")
    opened = Embeddings.open(tmp_path)
    assert opened.keys == ["000", "001"]
    assert opened.captions == ["a dog", ""]
    assert opened.text is None
    table = table.set_column(0, "image_path", pa.array(["000", "000"]))
    pq.write_table(table, tmp_path / "metadata" / "metadata_0.parquet")
    with pytest.raises(FormatError, match="'000' names two rows"):
        Embeddings.open(tmp_path)


def test_rows_that_do_not_match_name_the_file(tmp_path: Path, unit_rows: MakeRows) -> None:
    write(tmp_path, unit_rows(6, 8, 0), 2)
    path = tmp_path / "img_emb" / "img_emb_01.npy"
    np.save(path, unit_rows(2, 8, 0))
    with pytest.raises(FormatError, match=r"img_emb_01\.npy: has 2 rows, but metadata_01"):
        Embeddings.open(tmp_path)
    np.save(path, unit_rows(3, 9, 0))
    with pytest.raises(FormatError, match="different widths"):
        Embeddings.open(tmp_path)
    np.save(path, 2 * unit_rows(3, 8, 0))
    with pytest.raises(FormatError, match="length 1, got 2"):
        Embeddings.open(tmp_path)
    path.write_bytes(b"damaged")
    with pytest.raises(FormatError, match=r"img_emb_01\.npy: cannot be read"):
        Embeddings.open(tmp_path)
    path.unlink()
    with pytest.raises(FormatError, match="partition 1 is not in both"):
        Embeddings.open(tmp_path)


def test_missing_folder_and_columns(tmp_path: Path, unit_rows: MakeRows) -> None:
    with pytest.raises(DataMissingError, match="make them with embed"):
        Embeddings.open(tmp_path)
    write_partition(tmp_path, "0", {"caption": ["x"]}, {"img_emb": unit_rows(1, 8, 0)}, {})
    with pytest.raises(FormatError, match="needs columns"):
        Embeddings.open(tmp_path)


def test_arrays_are_checked(unit_rows: MakeRows) -> None:
    rows = unit_rows(2, 8, 0)
    made = Embeddings.from_arrays(["a", "b"], ["", ""], rows.astype(np.float64))
    assert made.image.dtype == np.float32
    assert len(made) == 2
    with pytest.raises(ValueError, match="'a' twice"):
        Embeddings.from_arrays(["a", "a"], ["", ""], rows)
    with pytest.raises(ValueError, match="needs 2 captions"):
        Embeddings.from_arrays(["a", "b"], [""], rows)
    with pytest.raises(ValueError, match="length 1, got 3"):
        Embeddings.from_arrays(["a", "b"], ["", ""], rows * 3)
    with pytest.raises(ValueError, match="text must be"):
        Embeddings.from_arrays(["a", "b"], ["", ""], rows, rows[:1])
    assert made.sha256 != Embeddings.from_arrays(["a", "c"], ["", ""], rows).sha256


def test_a_full_disk_leaves_no_file_of_the_partition(tmp_path: Path, unit_rows: MakeRows) -> None:
    rows = unit_rows(1000, 64, 0)
    columns = {"id": [str(n) for n in range(1000)], "caption": [""] * 1000}
    arrays = {"img_emb": rows[:, :8], "text_emb": rows}  # the first fits
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(IncompleteError, match=r"metadata_0\.parquet: its partition cannot be"):
            write_partition(tmp_path, "0", columns, arrays, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    write_partition(tmp_path, "0", columns, {"img_emb": rows, "text_emb": rows}, {})
    assert len(Embeddings.open(tmp_path)) == 1000


def test_a_killed_write_leaves_no_partition(
    tmp_path: Path, unit_rows: MakeRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pq, "write_table", killed)
    with pytest.raises(KeyboardInterrupt):
        write_partition(tmp_path, "0", {"id": ["a"]}, {"img_emb": unit_rows(1, 8, 0)}, {})
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_embeddings_of_files_go_to_workers(tmp_path: Path, unit_rows: MakeRows) -> None:
    rows = unit_rows(600, 64, 0)
    write(tmp_path, rows, 3)
    opened = Embeddings.open(tmp_path)
    assert opened.keys[500:] and opened.image[500:].shape == (100, 64)
    sent = pickle.dumps(opened)
    assert len(sent) < 4000  # names of files, not rows
    again = pickle.loads(sent)
    assert again.keys == opened.keys
    assert again.sha256 == opened.sha256
    np.testing.assert_array_equal(again.image[:], rows.astype(np.float16))


def test_all_given_rows_are_looked_at(unit_rows: MakeRows) -> None:
    rows = unit_rows(2000, 8, 0)
    rows[1500] *= 2
    ids = [str(n) for n in range(2000)]
    with pytest.raises(ValueError, match="text, row 1500: must be of length 1, got 2"):
        Embeddings.from_arrays(ids, ids, unit_rows(2000, 8, 1), rows)
    with pytest.raises(ValueError, match=r"rows must be in \[0, 1\], got 2"):
        Embeddings.from_arrays(["a"], [""], np.eye(1)).head_sha256(2)


def test_hash_of_pairs_is_as_first_published() -> None:
    pairs = Embeddings.from_arrays(["a/0/x", "a/0/y"], ["a dog", "Bär"], np.eye(2))
    assert pairs.sha256 == "72e59b21dd06e06ee17a0ad23ab397d8d63bc8b8ac5bb03719c61c7d27916b92"
    assert (
        pairs.head_sha256(1) == "9fb9b0dcf26cb2fed71a34062301c65ff8a691498341aee64fb35f6b62960aaa"
    )
    assert pairs.head_sha256(1) == Embeddings.from_arrays(["a/0/x"], ["a dog"], np.eye(1, 2)).sha256
