"""Opening the folders that users have: `layouts.py` and `sources.py`."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conceptarchive import (
    DataMissingError,
    Embeddings,
    FormatError,
    IncompleteError,
    UsageError,
)
from conceptarchive.features import embeddings, sources
from conceptarchive.features.embeddings import write_partition
from conceptarchive.features.rows import RowFiles
from conceptarchive.features.textcolumn import TextColumn

MakeRows = Callable[[int, int, int], npt.NDArray[np.float32]]
Rows = npt.NDArray[np.float32]


def clip_retrieval(
    folder: Path, rows: Rows, *, flat: bool = False, number: str = "0", text: Rows | None = None
) -> None:
    """One partition as clip-retrieval writes it, without ids."""
    names = {"img_emb": rows} | ({} if text is None else {"text_emb": text})
    for name, values in names.items():
        place = folder if flat else folder / name
        place.mkdir(parents=True, exist_ok=True)
        np.save(place / f"{name}_{number}.npy", values.astype(np.float16))
    place = folder if flat else folder / "metadata"
    place.mkdir(exist_ok=True)
    keys = [f"{number}{row:04d}" for row in range(len(rows))]
    table = pa.table({"image_path": keys, "caption": [f"caption {key}" for key in keys]})
    pq.write_table(table, place / f"metadata_{number}.parquet")


def datacomp(folder: Path, stem: str, *, write: Any = np.savez, **arrays: Rows) -> None:
    """One part as DataComp publishes it."""
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / f"{stem}.npz", dedup=np.zeros((1, 2)), **arrays)
    count = len(next(iter(arrays.values())))
    columns = {
        "uid": [f"{stem}{row:030x}" for row in range(count)],
        "url": ["http://example.org"] * count,
        "text": [f"text {row}" for row in range(count)],
    }
    pq.write_table(pa.table(columns), folder / f"{stem}.parquet")


@settings(deadline=None, max_examples=25)
@given(counts=st.lists(st.integers(0, 4), min_size=1, max_size=5), seed=st.integers(0, 9))
def test_partitions_do_not_show(counts: list[int], seed: int) -> None:
    counts = counts if sum(counts) else [2]
    rows = np.random.default_rng(seed).standard_normal((sum(counts), 8))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)
    index = np.arange(len(rows))
    with TemporaryDirectory() as place:
        for name, cuts in (("one", []), ("many", np.cumsum(counts)[:-1].tolist())):
            for number, part in enumerate(np.split(index, cuts)):
                columns = {
                    "id": [f"set/a/{row}" for row in part],
                    "caption": [f"Bild {row}" for row in part],
                }
                arrays = {"img_emb": rows[part], "text_emb": -rows[part]}
                write_partition(Path(place, name), f"{number:02d}", columns, arrays, {})
        one, many = (Embeddings.open(Path(place, name)) for name in ("one", "many"))
        assert one.keys == many.keys == [f"set/a/{row}" for row in index]
        assert one.captions == many.captions
        assert one.sha256 == many.sha256
        assert many.head_sha256(1) == one.head_sha256(1) != one.head_sha256(0)
        np.testing.assert_array_equal(many.image[:], rows)
        assert many.text is not None
        np.testing.assert_array_equal(many.text[index[::-1]], -rows[::-1])
        memory = Embeddings.from_arrays(one.keys[:], one.captions[:], rows, -rows)
        assert memory.sha256 == one.sha256
        many.validate()


@pytest.mark.parametrize("flat", [False, True])
def test_folders_of_clip_retrieval(tmp_path: Path, unit_rows: MakeRows, flat: bool) -> None:
    rows = unit_rows(5, 8, 0)
    for number, part in (("0", rows[:3]), ("1", rows[3:])):
        clip_retrieval(tmp_path, part, flat=flat, number=number, text=-part)
    opened = Embeddings.open(tmp_path)
    assert opened.keys == ["00000", "00001", "00002", "10000", "10001"]
    assert opened.captions[3:] == ["caption 10000", "caption 10001"]
    assert isinstance(opened.image, RowFiles)
    assert opened.text is not None
    np.testing.assert_array_equal(opened.text[:], -rows.astype(np.float16))
    assert len(opened.files) == 6


def test_folder_of_laion_400m(tmp_path: Path, unit_rows: MakeRows) -> None:
    clip_retrieval(tmp_path, unit_rows(2, 8, 0), text=unit_rows(2, 8, 1))
    (tmp_path / "img_emb").rename(tmp_path / "images")
    (tmp_path / "text_emb").rename(tmp_path / "texts")
    opened = Embeddings.open(tmp_path)
    assert len(opened) == 2
    assert opened.text is not None


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_folder_of_datacomp(
    tmp_path: Path, unit_rows: MakeRows, write: Any, caplog: pytest.LogCaptureFixture
) -> None:
    image, text, small = unit_rows(5, 8, 0), unit_rows(5, 8, 1), unit_rows(5, 4, 2)
    for stem, part in (("aa", slice(0, 2)), ("bb", slice(2, 5))):
        arrays = {"l14_img": image[part], "l14_txt": text[part], "b32_img": small[part]}
        datacomp(tmp_path / "metadata", stem, write=write, **arrays)
    for folder in (tmp_path, tmp_path / "metadata"):
        opened = Embeddings.open(folder)
        assert opened.keys[1:3] == [f"aa{1:030x}", f"bb{0:030x}"]
        assert opened.captions == ["text 0", "text 1", "text 0", "text 1", "text 2"]
        np.testing.assert_array_equal(opened.image[:], image)
        assert opened.text is not None
        np.testing.assert_array_equal(opened.text[np.array([4, 0])], text[[4, 0]])
        opened.validate()
    assert ("compressed" in caplog.text) == (write is np.savez_compressed)
    other = Embeddings.open(tmp_path, array="b32")
    assert other.image.shape == (5, 4)
    assert other.text is None
    with pytest.raises(FormatError, match=r"aa\.npz: has no array 'h14_img' but .*'l14_img'"):
        Embeddings.open(tmp_path, array="h14")
    (tmp_path / "metadata" / "aa.parquet").unlink()
    with pytest.raises(FormatError, match=r"aa\.npz: aa\.parquet is missing beside it"):
        Embeddings.open(tmp_path)


def test_rows_of_other_lengths_are_divided_when_asked(tmp_path: Path, unit_rows: MakeRows) -> None:
    rows = unit_rows(4, 8, 0)
    datacomp(tmp_path, "aa", l14_img=7 * rows)
    clip_retrieval(tmp_path / "other", 7 * rows)
    for folder in (tmp_path, tmp_path / "other"):
        with pytest.raises(FormatError, match="length 1, got 7; open with normalize"):
            Embeddings.open(folder)
        opened = Embeddings.open(folder, normalize=True)
        np.testing.assert_allclose(opened.image[:].astype(np.float32), rows, atol=1e-3)
        opened.validate()


def test_keys_of_several_folders_stay_apart(tmp_path: Path, unit_rows: MakeRows) -> None:
    rows = unit_rows(2, 8, 0)
    for name in ("cc3m", "cc12m", "old/cc3m"):
        clip_retrieval(tmp_path / name, rows)
    both = Embeddings.open(tmp_path / "cc3m", str(tmp_path / "cc12m"))
    assert both.keys == ["cc3m/00000", "cc3m/00001", "cc12m/00000", "cc12m/00001"]
    np.testing.assert_array_equal(both.image[2:], both.image[:2])
    named = Embeddings.open(tmp_path / "cc3m", dataset="web")
    assert named.keys == ["web/00000", "web/00001"]
    alike = Embeddings.open(tmp_path / "cc3m", tmp_path / "old" / "cc3m")
    assert alike.keys[2] == "old/cc3m/00000"
    with pytest.raises(UsageError, match="is given twice"):
        Embeddings.open(tmp_path / "cc3m", tmp_path / "cc3m")
    with pytest.raises(FormatError, match=r"row 0 and .*row 0: 'web/00000' names two rows"):
        Embeddings.open(tmp_path / "cc3m", tmp_path / "cc12m", dataset="web")
    with pytest.raises(UsageError, match="at least one folder"):
        Embeddings.open()


def test_complete_ids_stay_as_they_are(tmp_path: Path, unit_rows: MakeRows) -> None:
    columns = {"id": ["cc3m/0/x"], "image_path": ["x"], "caption": [""]}
    write_partition(tmp_path / "a", "0", columns, {"img_emb": unit_rows(1, 8, 0)}, {})
    clip_retrieval(tmp_path / "b", unit_rows(1, 8, 1))
    assert Embeddings.open(tmp_path / "a", tmp_path / "b").keys == ["cc3m/0/x", "b/00000"]


def test_rows_of_captions_are_used_when_all_folders_have_them(
    tmp_path: Path, unit_rows: MakeRows, caplog: pytest.LogCaptureFixture
) -> None:
    clip_retrieval(tmp_path / "a", unit_rows(1, 8, 0), text=unit_rows(1, 8, 1))
    clip_retrieval(tmp_path / "b", unit_rows(1, 8, 0))
    assert Embeddings.open(tmp_path / "a", tmp_path / "b").text is None
    assert "only some folders have rows of captions" in caplog.text


def test_captions_from_elsewhere(
    tmp_path: Path, unit_rows: MakeRows, caplog: pytest.LogCaptureFixture
) -> None:
    clip_retrieval(tmp_path, unit_rows(3, 8, 0))
    path = tmp_path / "metadata" / "metadata_0.parquet"
    pq.write_table(pq.read_table(path).select(["image_path"]), path)
    with pytest.raises(FormatError, match=r"needs columns 'caption'.*pass captions="):
        Embeddings.open(tmp_path)
    captions = {"00002": "a dog", "00000": "a cat", "elsewhere": "a tree"}
    opened = Embeddings.open(tmp_path, captions=captions)
    assert opened.captions == ["a cat", "", "a dog"]
    assert "1 of 3 rows have no caption" in caplog.text
    with pytest.raises(FormatError, match=r"none of 3 rows.*such as '00000', captions have 'x'"):
        Embeddings.open(tmp_path, captions={"x": "a dog"})


@pytest.mark.parametrize("name", ["img_emb/img_emb_1.npy", "metadata/metadata_1.parquet"])
def test_empty_cut_and_missing_files_are_named(
    tmp_path: Path, unit_rows: MakeRows, name: str
) -> None:
    for number in "012":
        clip_retrieval(tmp_path, unit_rows(40, 8, 0), number=number)
    path = tmp_path / name
    whole = path.read_bytes()
    for kept in (0, 3, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:kept])
        with pytest.raises(FormatError, match=f"{path.name}: (is empty|cannot be read|is cut)"):
            Embeddings.open(tmp_path)
    path.unlink()
    with pytest.raises(FormatError, match="partition 1 is not in both img_emb/ and metadata/"):
        Embeddings.open(tmp_path)


def test_a_cut_archive_is_named(tmp_path: Path, unit_rows: MakeRows) -> None:
    datacomp(tmp_path, "aa", l14_img=unit_rows(40, 8, 0))
    whole = (tmp_path / "aa.npz").read_bytes()
    for kept in (0, 100, len(whole) - 1):
        (tmp_path / "aa.npz").write_bytes(whole[:kept])
        with pytest.raises(FormatError, match=r"aa\.npz: (is empty|cannot be read)"):
            Embeddings.open(tmp_path)


def test_a_missing_partition_is_said(
    tmp_path: Path, unit_rows: MakeRows, caplog: pytest.LogCaptureFixture
) -> None:
    for number in ("0", "1", "9"):
        clip_retrieval(tmp_path, unit_rows(2, 8, 0), number=number)
    assert len(Embeddings.open(tmp_path)) == 6
    assert "no partition 2, 3, 4, 5, 6 and 2 more; the others are used" in caplog.text
    clip_retrieval(tmp_path, unit_rows(2, 8, 0), number="09")
    with pytest.raises(FormatError, match="are the same partition"):
        Embeddings.open(tmp_path)


def test_an_unfinished_folder_of_embed_is_refused(tmp_path: Path, unit_rows: MakeRows) -> None:
    manifest: dict[str, Any] = {"encoder": "tiny", "shards": [["a", 1], ["b", 1]]}
    clip_retrieval(tmp_path, unit_rows(2, 8, 0))
    (tmp_path / "embed.json").write_text(json.dumps(manifest))
    with pytest.raises(IncompleteError, match="1 of 2 shards are embedded; run embed again"):
        Embeddings.open(tmp_path)
    clip_retrieval(tmp_path, unit_rows(2, 8, 0), number="1")
    assert Embeddings.open(tmp_path).encoder_id == "tiny"
    for text in ("[]", "{", '{"shards": []}'):
        (tmp_path / "embed.json").write_text(text)
        with pytest.raises(FormatError, match=r"embed\.json: not a manifest"):
            Embeddings.open(tmp_path)


def test_folders_of_two_encoders_are_refused(tmp_path: Path, unit_rows: MakeRows) -> None:
    for name in "abc":
        clip_retrieval(tmp_path / name, unit_rows(2, 8, 0))
    for name in "ab":
        (tmp_path / name / "embed.json").write_text(json.dumps({"encoder": f"of {name}"}))
    with pytest.raises(UsageError, match=r"embedded with of b, but .* with of a"):
        Embeddings.open(tmp_path / "a", tmp_path / "b")
    assert Embeddings.open(tmp_path / "a", tmp_path / "c").encoder_id is None


def test_widths_and_types_are_checked(tmp_path: Path, unit_rows: MakeRows) -> None:
    clip_retrieval(tmp_path, unit_rows(2, 8, 0), text=unit_rows(2, 9, 0))
    with pytest.raises(FormatError, match="rows of captions are 9 wide, of images 8"):
        Embeddings.open(tmp_path)
    clip_retrieval(tmp_path, unit_rows(2, 8, 0), text=unit_rows(2, 8, 0))
    path = tmp_path / "img_emb" / "img_emb_0.npy"
    for array in (np.ones((2, 8), np.int8), np.ones(16), np.ones((2, 8), ">f2")):
        np.save(path, array)
        with pytest.raises(FormatError, match=r"img_emb_0\.npy: needs \(n, D\) float16 or float32"):
            Embeddings.open(tmp_path)
    np.save(path, np.asfortranarray(unit_rows(2, 8, 0)))
    np.testing.assert_array_equal(Embeddings.open(tmp_path).image[:], unit_rows(2, 8, 0))


def test_columns_are_the_same_in_all_partitions(tmp_path: Path, unit_rows: MakeRows) -> None:
    for number in "01":
        clip_retrieval(tmp_path, unit_rows(2, 8, 0), number=number)
    table = pa.table({"uid": ["a", "b"], "caption": ["", ""]})
    pq.write_table(table, tmp_path / "metadata" / "metadata_1.parquet")
    with pytest.raises(FormatError, match=r"metadata_1\.parquet: needs columns \['image_path'\]"):
        Embeddings.open(tmp_path)


def test_large_tables_are_read_by_row_group(
    tmp_path: Path, unit_rows: MakeRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in "01":
        clip_retrieval(tmp_path, unit_rows(7, 8, 0), number=number)
    path = tmp_path / "metadata" / "metadata_1.parquet"
    pq.write_table(pq.read_table(path), path, row_group_size=3)
    whole = Embeddings.open(tmp_path)
    monkeypatch.setattr(sources, "WHOLE_ROWS", 6)
    cut = Embeddings.open(tmp_path)
    assert isinstance(cut.keys, TextColumn)
    assert [file.rows for file in cut.keys.files] == [7, 3, 3, 1]
    assert cut.keys.where(13) == f"{path}, row 6"
    assert (cut.keys, cut.captions) == (whole.keys, whole.captions)
    assert cut.sha256 == whole.sha256


def test_ids_of_large_folders_are_compared_by_the_full_pass(
    tmp_path: Path, unit_rows: MakeRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip_retrieval(tmp_path, unit_rows(3, 8, 0))
    path = tmp_path / "metadata" / "metadata_0.parquet"
    pq.write_table(pa.table({"id": ["a", "b", "a"], "caption": [""] * 3}), path)
    with pytest.raises(FormatError, match=r"row 0 and .*_0\.parquet, row 2: 'a' names two rows"):
        Embeddings.open(tmp_path)
    monkeypatch.setattr(embeddings, "FEW_IDS", 2)
    opened = Embeddings.open(tmp_path)
    with pytest.raises(FormatError, match="'a' names two rows"):
        opened.validate()


def test_other_archives_beside_numbered_files_do_not_matter(
    tmp_path: Path, unit_rows: MakeRows
) -> None:
    clip_retrieval(tmp_path, unit_rows(3, 8, 0))
    np.savez(tmp_path / "notes.npz", x=np.ones(3))
    assert len(Embeddings.open(tmp_path)) == 3


def test_only_the_full_pass_reads_every_row(tmp_path: Path, unit_rows: MakeRows) -> None:
    rows = unit_rows(3000, 8, 0)
    rows[2500, 3] = np.nan
    clip_retrieval(tmp_path, rows, text=unit_rows(3000, 8, 1))
    opened = Embeddings.open(tmp_path)
    with pytest.raises(FormatError, match=r"image, row 2500: .* holds NaN"):
        opened.validate()
    clip_retrieval(tmp_path, unit_rows(5, 8, 0), number="1", text=np.zeros((5, 8), np.float32))
    with pytest.raises(FormatError, match=r"text_emb_1\.npy, row 0: .* holds zeros only"):
        Embeddings.open(tmp_path)


def test_stamp_changes_with_the_files_and_not_without(
    tmp_path: Path, unit_rows: MakeRows, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    clip_retrieval(tmp_path / "a", unit_rows(2, 8, 0))
    opened = Embeddings.open(tmp_path / "a")
    before = opened.stamp
    assert Embeddings.open(tmp_path / "a").stamp == before
    moved = (tmp_path / "a").rename(tmp_path / "b")
    assert Embeddings.open(moved).stamp == before
    with pytest.raises(DataMissingError, match="is missing; it was there before"):
        _ = opened.stamp
    clip_retrieval(moved, unit_rows(2, 8, 1))
    assert Embeddings.open(moved).stamp != before
    memory = Embeddings.from_arrays(["a"], [""], np.eye(1, 4))
    assert memory.stamp == memory.sha256


def test_nothing_to_open_is_said(tmp_path: Path, unit_rows: MakeRows) -> None:
    with pytest.raises(DataMissingError, match="no such folder"):
        Embeddings.open(tmp_path / "none")
    clip_retrieval(tmp_path, unit_rows(0, 8, 0))
    with pytest.raises(DataMissingError, match="hold no rows"):
        Embeddings.open(tmp_path)
    (tmp_path / "text_emb").mkdir()
    with pytest.raises(DataMissingError, match=r"no text_emb_\*\.npy"):
        Embeddings.open(tmp_path)
    (tmp_path / "text_emb").rmdir()
    (tmp_path / "img_emb" / "img_emb_0.npy").unlink()
    with pytest.raises(DataMissingError, match=r"no img_emb_\*\.npy"):
        Embeddings.open(tmp_path)
