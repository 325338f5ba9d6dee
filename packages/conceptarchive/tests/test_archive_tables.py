import csv
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conceptarchive import DataMissingError, FormatError, SkipLog, read_pairs
from conceptarchive.inputs import columns as columns_module
from conceptarchive.inputs import tables as tables_module
from conceptarchive.inputs.columns import TableColumns, choose_columns
from conceptarchive.inputs.pairs import Pair
from conceptarchive.inputs.tables import table_pairs

Jpeg = Callable[[int], bytes]
ROWS = [("pictures/0.jpg", 'a "dog"'), ("pictures/1.png", "ein Bär 🐻"), ("pictures/2.jpg", "")]


def write(folder: Path, suffix: str, rows: list[dict[str, Any]]) -> Path:
    path = folder / f"table{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        lines = [list(rows[0]), *(row.values() for row in rows)]
        path.write_text("".join("\t".join(map(str, line)) + "\n" for line in lines), "utf-8")
    return path


def read(table: Path, **options: Any) -> tuple[list[Pair], dict[str, int]]:
    skips = SkipLog()
    try:
        return list(read_pairs([table], skips=skips, **options)), skips.counts()
    except DataMissingError:
        return [], skips.counts()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with a file for each of ROWS, whose bytes are its own name."""
    folder = tmp_path / "set"
    (folder / "pictures").mkdir(parents=True)
    for path, _ in ROWS:
        (folder / path).write_bytes(path.encode())
    return folder


@pytest.mark.parametrize("suffix", [".tsv", ".csv", ".jsonl", ".parquet"])
def test_tables_of_all_kinds_give_the_same_pairs(pictures: Path, suffix: str) -> None:
    absolute = str(pictures / "pictures/0.jpg")
    rows = [{"Caption": text, "IMAGE_PATH": path, "width": 7} for path, text in ROWS]
    rows += [
        {"Caption": "again", "IMAGE_PATH": "./pictures/0.jpg", "width": 7},
        {"Caption": "again", "IMAGE_PATH": absolute, "width": 7},
        {"Caption": "gone", "IMAGE_PATH": "pictures/nowhere.jpg", "width": 7},
        {"Caption": "no path", "IMAGE_PATH": "", "width": 7},
        {"Caption": "bad name", "IMAGE_PATH": "pictures\\0.jpg", "width": 7},
    ]
    pairs, counts = read(write(pictures, suffix, rows))
    assert [(pair.id, pair.caption) for pair in pairs] == [
        (f"set/table/pictures/{n}", caption) for n, (_, caption) in enumerate(ROWS)
    ]
    assert [pair.image for pair in pairs] == [path.encode() for path, _ in ROWS]
    assert counts == {"duplicate key": 2, "no image": 2, "unsafe name": 1}
    bare, same = read(pictures / f"table{suffix}", images=False)
    assert [(pair.id, pair.image) for pair in bare] == [(pair.id, None) for pair in pairs]
    assert same == counts


def test_byte_order_marks_and_windows_lines_are_read(pictures: Path) -> None:
    for suffix, separator in ((".tsv", "\t"), (".csv", ",")):
        lines = [separator.join(row) for row in (("image", "caption"), ("pictures/0.jpg", "a"))]
        table = pictures / f"table{suffix}"
        table.write_bytes(b"\xef\xbb\xbf" + "\r\n\r\n".join(lines).encode() + b"\r\n")
        assert [pair.caption for pair in read(table)[0]] == ["a"]
    table = pictures / "table.jsonl"
    table.write_bytes(b'\xef\xbb\xbf{"image": "pictures/0.jpg", "caption": "a"}\r\n\r\n')
    assert [pair.caption for pair in read(table)[0]] == ["a"]


def test_quotes_are_text_in_tsv_unless_its_header_is_quoted(pictures: Path) -> None:
    table = pictures / "table.tsv"
    table.write_text('image\tcaption\npictures/0.jpg\t"a\npictures/1.png\tb\rc\n', "utf-8")
    assert [pair.caption for pair in read(table)[0]] == ['"a', "b\rc"]
    table.write_text('"image"\t"caption"\n"pictures/0.jpg"\t"a\tb\n""c"""\n', "utf-8")
    assert [pair.caption for pair in read(table)[0]] == ['a\tb\n"c"']
    comma = pictures / "table.csv"  # open_clip's .csv is separated by tabs
    comma.write_text("filepath\ttitle\npictures/0.jpg\ta, b\n", "utf-8")
    assert [pair.caption for pair in read(comma)[0]] == ["a, b"]


def test_rows_that_cannot_be_cut_into_cells_are_counted(pictures: Path) -> None:
    table = pictures / "table.tsv"
    table.write_bytes(
        b"image\tcaption\npictures/0.jpg\ta\tb\npictures/1.png\npictures/2.jpg\tc\t\t"
    )
    skips = SkipLog()
    assert [pair.caption for pair in read_pairs([table], skips=skips)] == ["c"]
    assert skips.entries == [
        (str(table), "row 1", "more cells than columns"),
        (str(table), "pictures/1", "no caption"),
    ]
    lines = pictures / "table.jsonl"
    good = b'{"image": "pictures/0.jpg", "caption": "a"}\n'
    lines.write_bytes(good + b'[1]\n{"image": \n{"image": 7, "caption": "b"}\n{"caption": "c"}')
    assert read(lines)[1] == {"damaged line": 2, "no image": 2}


def test_a_quote_that_never_closes_is_an_error_not_a_long_caption(pictures: Path) -> None:
    table = pictures / "table.csv"
    table.write_text('image,caption\npictures/0.jpg,a\npictures/1.png,"b\npictures/2.jpg,c\n')
    pairs = read_pairs([table])
    assert next(pairs).caption == "a"
    with pytest.raises(FormatError, match=r"table\.csv: line 4: unexpected end of data"):
        list(pairs)


def test_captions_that_are_not_utf8_are_counted(pictures: Path) -> None:
    table = pictures / "table.tsv"
    table.write_bytes(b"image\tcaption\npictures/0.jpg\tcaf\xe9\nbad\xe9\tx\n")
    assert read(table) == ([], {"caption is not UTF-8": 1, "unsafe name": 1})
    raw = pa.array([b"caf\xe9", b"fine"], pa.binary())
    captions = pa.StringArray.from_buffers(2, raw.buffers()[1], raw.buffers()[2])
    arrays = {"image": pa.array([path for path, _ in ROWS[:2]]), "caption": captions}
    pq.write_table(pa.table(arrays), pictures / "table.parquet")
    pairs, counts = read(pictures / "table.parquet")
    assert [pair.caption for pair in pairs] == ["fine"]
    assert counts == {"caption is not UTF-8": 1}


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".csv"])
def test_a_key_column_names_the_pairs(pictures: Path, suffix: str) -> None:
    rows = [
        {"uid": key, "path": path, "text": text}
        for key, (path, text) in zip((12, 7, 12), ROWS, strict=True)
    ]
    pairs, counts = read(write(pictures, suffix, rows))
    assert [pair.id for pair in pairs] == ["set/table/12", "set/table/7"]
    assert counts == {"duplicate key": 1}


def test_empty_and_unsafe_keys_are_counted(pictures: Path) -> None:
    rows = [
        {"key": key, "image": "pictures/0.jpg", "caption": "a"} for key in (None, "", "../a", "b")
    ]
    pairs, counts = read(write(pictures, ".jsonl", rows))
    assert [pair.key for pair in pairs] == ["b"]
    assert counts == {"no key": 2, "unsafe name": 1}


def test_keys_of_paths_are_safe_wherever_the_table_is(pictures: Path) -> None:
    inner = pictures / "tables"
    inner.mkdir()
    table = inner / "table.tsv"
    outside = pictures / "pictures/1.png"
    table.write_text(f"image\tcaption\n../pictures/0.jpg\ta\n{outside}\tb\n", "utf-8")
    assert [pair.key for pair in read(table)[0]] == [
        "pictures/0",
        str(outside.with_suffix("")).lstrip("/"),
    ]


def test_given_columns_win_over_usual_names(pictures: Path) -> None:
    rows = [{"caption": "no", "alt": "yes", "image": "x", "at": "pictures/0.jpg", "n": "k"}]
    table = write(pictures, ".csv", rows)
    given_columns = TableColumns(image="at", caption="alt", key="n")
    pairs, _ = read(table, columns=given_columns)
    assert [(pair.key, pair.caption, pair.image) for pair in pairs] == [
        ("k", "yes", b"pictures/0.jpg")
    ]
    with pytest.raises(FormatError, match=r"no column 'Alt'; it has 'caption', 'alt', 'image'"):
        list(read_pairs([table], columns=TableColumns(caption="Alt")))


def test_usual_names_are_taken_in_a_fixed_order() -> None:
    names = ["TEXT", "id", "path", " Caption ", "filename", "image_id", "Image"]
    chosen = choose_columns(Path("t"), names, None, images=True)
    assert chosen == ("Image", " Caption ", "id")
    for usual in (columns_module.IMAGE_COLUMNS, columns_module.CAPTION_COLUMNS):
        assert len(set(usual)) == len(usual)


def test_missing_columns_are_told_with_the_way_out(tmp_path: Path) -> None:
    table = tmp_path / "cc3m.tsv"
    table.write_text("caption\turl\na\thttp://x\n")
    with pytest.raises(FormatError, match=r"no column 'image' .*it has 'caption', 'url'.*fetch"):
        list(read_pairs([table]))
    table.write_text("image\tlabel\na.jpg\t3\n")
    with pytest.raises(FormatError, match=r"no column 'caption' .*name the one to read"):
        list(read_pairs([table]))
    table.write_text("x\n" + "\t".join("y" * 30))
    with pytest.raises(FormatError, match="it has 'x'"):
        list(read_pairs([table]))


@pytest.mark.parametrize("suffix", [".tsv", ".csv", ".jsonl", ".parquet"])
def test_captions_alone_need_keys(tmp_path: Path, suffix: str) -> None:
    table = write(tmp_path, suffix, [{"key": "a", "caption": "x"}, {"key": "b", "caption": "y"}])
    pairs, _ = read(table, images=False)
    assert [(pair.key, pair.caption, pair.image) for pair in pairs] == [
        ("a", "x", None), ("b", "y", None),
    ]  # fmt: skip
    with pytest.raises(FormatError, match="no column 'image'"):
        list(read_pairs([table]))
    with pytest.raises(FormatError, match="no column 'image'"):
        list(read_pairs([write(tmp_path, suffix, [{"caption": "x"}])], images=False))


@pytest.mark.parametrize("images", [False, True])
@pytest.mark.parametrize("holes", [False, True])
def test_parquet_may_hold_the_images(tmp_path: Path, images: bool, holes: bool) -> None:
    """As img2dataset writes them (jpg), and as Hugging Face does (a struct)."""
    data: list[bytes | None] = [b"0" * 9, None if holes else b"1", b"2"]
    flat: list[dict[str, Any]] = [{"jpg": image, "caption": str(n)} for n, image in enumerate(data)]
    nested: list[dict[str, Any]] = [
        {"image": None if image is None else {"bytes": image, "path": f"{n}.jpg"}, "text": str(n)}
        for n, image in enumerate(data)
    ]
    for rows, keys in ((flat, ["000000000", "000000002"]), (nested, ["0", "2"])):
        pairs, counts = read(write(tmp_path, ".parquet", rows), images=images)
        assert [pair.key for pair in pairs if pair.caption != "1"] == keys
        assert [pair.image for pair in pairs if pair.caption != "1"] == (
            [b"0" * 9, b"2"] if images else [None, None]
        )
        assert len(pairs) == (2 if holes else 3)
        assert counts == ({"no image": 1} if holes else {})


def test_bytes_that_are_not_asked_for_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    class Spy(pq.ParquetFile):  # type: ignore[misc]  # pyarrow has no types
        def iter_batches(self, **options: Any) -> Any:
            asked.append(options["columns"])
            return super().iter_batches(**options)

    monkeypatch.setattr("conceptarchive.inputs.parquettables.pq.ParquetFile", Spy)
    table = write(tmp_path, ".parquet", [{"image": {"bytes": b"1", "path": "1.jpg"}, "text": "a"}])
    read(table, images=False)
    read(table, images=True)
    assert asked == [["text", "image.path"], ["text", "image.path", "image.bytes"]]


def test_parquet_without_bytes_reads_the_path(pictures: Path) -> None:
    rows = [{"image": {"bytes": None, "path": path}, "caption": text} for path, text in ROWS]
    schema = pa.schema([
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("caption", pa.dictionary(pa.int32(), pa.string())),
    ])  # fmt: skip
    path = pictures / "table.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema), path, row_group_size=2)
    pairs, _ = read(path)
    assert [pair.image for pair in pairs] == [path.encode() for path, _ in ROWS]
    assert [pair.caption for pair in pairs] == [text for _, text in ROWS]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_the_first_of_a_list_of_captions_counts(pictures: Path, suffix: str) -> None:
    rows: list[dict[str, Any]] = [
        {"image": "pictures/0.jpg", "caption": ["a", "b", "c"]},
        {"image": "pictures/1.png", "caption": []},
        {"image": "pictures/2.jpg", "caption": None},
    ]
    pairs, counts = read(write(pictures, suffix, rows))
    assert [pair.caption for pair in pairs] == ["a"]
    assert counts == {"duplicate key": 2, "no caption": 2}


def test_columns_of_other_types_are_errors_or_counted(tmp_path: Path) -> None:
    table = write(tmp_path, ".parquet", [{"image": 3, "caption": "a"}])
    with pytest.raises(FormatError, match="column 'image' holds int64"):
        list(read_pairs([table]))
    table = write(tmp_path, ".parquet", [{"image": b"1", "caption": 3}])
    assert read(table) == ([], {"no caption": 1})


def test_damaged_tables_are_one_clear_error(tmp_path: Path) -> None:
    for suffix, told in (
        (".tsv", "empty table"), (".csv", "empty table"), (".jsonl", "empty table"),
        (".parquet", "damaged Parquet table"),
    ):  # fmt: skip
        table = tmp_path / f"t{suffix}"
        table.write_bytes(b"")
        with pytest.raises(FormatError, match=told):
            list(table_pairs(table))
    (tmp_path / "t.jsonl").write_bytes(b"[1, 2]\n")
    with pytest.raises(FormatError, match="not a JSON object"):
        list(table_pairs(tmp_path / "t.jsonl"))
    (tmp_path / "t.csv").write_bytes(b"x" * 3_000_000)
    with pytest.raises(FormatError, match="first line is longer"):
        list(table_pairs(tmp_path / "t.csv"))


def test_cut_parquet_is_an_error_everywhere(tmp_path: Path) -> None:
    rows = [{"image": bytes([n]) * 50, "caption": f"caption {n}"} for n in range(40)]
    whole = write(tmp_path, ".parquet", rows).read_bytes()
    cut = tmp_path / "cut.parquet"
    for size in range(0, len(whole), 61):
        cut.write_bytes(whole[:size])
        with pytest.raises(FormatError, match=r"cut\.parquet: damaged.*fetch it again"):
            list(table_pairs(cut))


def test_damaged_pages_of_parquet_are_an_error(tmp_path: Path) -> None:
    rows = [{"key": str(n), "image": os.urandom(50), "caption": f"caption {n}"} for n in range(40)]
    table = tmp_path / "t.parquet"
    pq.write_table(pa.Table.from_pylist(rows), table, compression="zstd")
    data = bytearray(table.read_bytes())
    group = pq.read_metadata(table).row_group(0)
    start = group.column(2).data_page_offset
    data[start : start + 60] = bytes(60)
    table.write_bytes(data)
    with pytest.raises(FormatError, match="damaged Parquet table"):
        list(table_pairs(table))


def test_unreadable_images_are_counted(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = write(pictures, ".tsv", [{"image": path, "caption": "a"} for path, _ in ROWS])
    plain = Path.read_bytes

    def closed(path: Path) -> bytes:
        if path.name == "1.png":
            raise PermissionError(13, "Permission denied")
        return plain(path)

    monkeypatch.setattr(Path, "read_bytes", closed)
    pairs, counts = read(table)
    assert [pair.key for pair in pairs] == ["pictures/0", "pictures/2"]
    assert counts == {"image cannot be read": 1}
    monkeypatch.setattr("conceptarchive.inputs.raw.MAX_IMAGE_BYTES", 3)
    assert read(table)[1] == {"image too large": 3}
    monkeypatch.setattr(tables_module, "MAX_IMAGE_BYTES", 3)
    inside = write(pictures, ".parquet", [{"image": b"1234", "caption": "a"}])
    assert read(inside)[1] == {"image too large": 1}


def test_paths_that_no_file_can_have_are_no_image(tmp_path: Path) -> None:
    rows = [{"key": str(n), "image": path, "caption": "a"} for n, path in enumerate(
        ["a\0b.jpg", "\ud800.jpg", "x" * 5000 + ".jpg", ".", "/", "pipe.jpg"]
    )]  # fmt: skip
    os.mkfifo(tmp_path / "pipe.jpg")
    pairs, counts = read(write(tmp_path, ".jsonl", rows))
    assert pairs == []
    assert counts == {"no image": 5, "image cannot be read": 1}  # the name that is too long
    assert read(tmp_path / "table.jsonl", images=False)[1] == {"no image": 6}


CAPTIONS = st.text(st.characters(exclude_categories=["Cs"]))


@settings(max_examples=60, deadline=None)
@given(captions=st.lists(CAPTIONS, min_size=1, max_size=8), suffix=st.sampled_from(
    [".csv", ".jsonl", ".parquet"]
))  # fmt: skip
def test_any_caption_goes_through(
    tmp_path_factory: pytest.TempPathFactory, captions: list[str], suffix: str
) -> None:
    rows = [{"key": str(n), "caption": caption} for n, caption in enumerate(captions)]
    pairs, _ = read(write(tmp_path_factory.mktemp("set"), suffix, rows), images=False)
    assert [pair.caption for pair in pairs] == [
        caption.removeprefix("\ufeff").strip() for caption in captions
    ]


@settings(max_examples=60, deadline=None)
@given(captions=st.lists(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\t\n\r")), max_size=8
))  # fmt: skip
def test_any_line_goes_through_tsv(
    tmp_path_factory: pytest.TempPathFactory, captions: list[str]
) -> None:
    table = tmp_path_factory.mktemp("set") / "t.tsv"
    lines = ["key\tcaption", *(f"{n}\t{caption}" for n, caption in enumerate(captions))]
    table.write_text("\n".join(lines), encoding="utf-8")
    assert [raw.caption for raw in table_pairs(table, images=False)] == captions


@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=300), suffix=st.sampled_from([".tsv", ".csv", ".jsonl", ".parquet"]))
def test_any_bytes_give_pairs_or_one_clear_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, suffix: str
) -> None:
    folder = tmp_path_factory.mktemp("set")
    head = {
        ".tsv": b"key\tcaption\n",
        ".csv": b"key,caption\n",
        ".jsonl": b'{"key":1,"caption":""}\n',
    }
    table = folder / f"t{suffix}"
    table.write_bytes(head.get(suffix, b"PAR1") + data)
    skips = SkipLog()
    try:
        for pair in read_pairs([table], skips=skips, images=False):
            io.BytesIO(f"{pair.id}{pair.caption}".encode())  # all of it is UTF-8
    except (FormatError, DataMissingError) as error:
        assert str(table) in str(error)
        assert "\n" not in str(error)
