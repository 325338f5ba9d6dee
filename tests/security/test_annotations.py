"""JSON and Arrow of strangers: sizes that are not there, numbers without end, offsets astray."""

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import groupvit
import maskcluster
from conceptarchive import (
    ArchiveConfig,
    ConceptArchive,
    ConceptArchiveError,
    Embeddings,
    Vocabulary,
    build_archive,
    load_class_names,
    load_truth,
)
from maskcluster import MaskSet, MaskStore, Rle, read_sa1b
from maskcluster.masks.store import MaskStoreWriter, Part
from segbench import SegbenchError, UnreadableImageError
from segbench.datasets import pictures
from segbench.datasets.annotations import decode_mask, image_size, load_json
from segbench.datasets.pictures import read_label_map

LittleMemory = Callable[..., AbstractContextManager[None]]
DEEP = "[" * 200_000


def test_json_that_is_nested_without_end_is_no_json(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(DEEP)
    readers: list[tuple[Callable[[Path], object], type[Exception]]] = [
        (read_sa1b, maskcluster.FormatError),
        (Vocabulary.from_file, ConceptArchiveError),
        (load_class_names, ConceptArchiveError),
        (load_truth, ConceptArchiveError),
        (lambda file: load_json(file, "images"), UnreadableImageError),
    ]
    for read, error in readers:
        with pytest.raises(error) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path}: ")
    (tmp_path / "config.json").write_text(DEEP)
    with pytest.raises(groupvit.CheckpointError, match=r"config\.json: not JSON"):
        groupvit.load_released(tmp_path)


def sa1b(path: Path, height: int, width: int, counts: object) -> Path:
    segmentation = {"size": [height, width], "counts": counts}
    table = {
        "image": {"height": height, "width": width},
        "annotations": [{"segmentation": segmentation}],
    }
    path.write_text(json.dumps(table))
    return path


@pytest.mark.usefixtures("hurry")
def test_masks_of_sa1b_are_no_larger_than_a_photograph(
    tmp_path: Path, little_memory: LittleMemory
) -> None:
    path = tmp_path / "a.json"
    for height, width, counts in [
        (60_000, 60_000, [3_600_000_000]),
        (1 << 40, 1 << 40, [1 << 80]),
        (2, 2, "o" * 1_000_000),  # one number of 5,000,000 bits
        (2, 2, [1 << 70, 4]),
        (2, 2, [-4, 8]),
    ]:
        with little_memory(), pytest.raises(maskcluster.FormatError, match=r"a\.json: "):
            read_sa1b(sa1b(path, height, width, counts))
    assert len(read_sa1b(sa1b(path, 2, 2, [1, 3])).masks) == 1


@pytest.mark.usefixtures("hurry")
def test_masks_of_coco_take_memory_in_proportion(little_memory: LittleMemory) -> None:
    far = [0.0, 0.0, 1e6, 1e6] * 500  # to and fro, a million pixels each time
    with little_memory():
        for segmentation in [
            {"size": [480, 640], "counts": "o" * 1_000_000},
            {"size": [480, 640], "counts": [1 << 70]},
            {"size": [480, 640], "counts": [-1, 307_201]},
            {"size": [1 << 40, 1 << 40], "counts": [1 << 80]},
            [far],
        ]:
            with pytest.raises(ValueError, match=r"run lengths|polygon"):
                decode_mask(segmentation, 480, 640)
        with pytest.raises(SegbenchError, match=r"60000 x 60000 is more than 178,956,970 pixels"):
            image_size({"height": 60_000, "width": 60_000}, Path("a.json"))


def test_many_polygons_take_the_memory_of_one_mask(little_memory: LittleMemory) -> None:
    many = [[1.0, 1.0, 4.0, 1.0, 4.0, 4.0]] * 300  # 92 MB, if all masks were held
    wanted = decode_mask(many[:1], 480, 640)
    with little_memory(64 << 20):
        assert np.array_equal(decode_mask(many, 480, 640), wanted)


def test_a_matrix_of_matlab_is_no_larger_than_a_photograph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its header says how large it is; compressed, a few bytes may become any number."""
    matlab = pytest.importorskip("scipy.io.matlab")
    path = tmp_path / "a.mat"
    matlab.savemat(path, {"LabelMap": np.zeros((100, 101), np.uint8)}, do_compression=True)
    assert read_label_map(path).shape == (100, 101)
    monkeypatch.setattr(pictures, "MOST_PIXELS", 10_000)
    with pytest.raises(UnreadableImageError, match="LabelMap has more than 10,000 values"):
        read_label_map(path)


def replace_offsets(path: Path, old: Sequence[int], new: Sequence[int]) -> None:
    """Write other offsets over some that occur in an Arrow file."""
    before, after = (np.array(ends, np.int32).tobytes() for ends in (old, new))
    content = path.read_bytes()
    assert len(before) == len(after) and before in content
    path.write_bytes(content.replace(before, after))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A mask store of three photographs with 2, 3 and 1 masks."""
    keys = ["a", "bb", "ccc"]
    mask = Rle.from_mask(np.eye(3, dtype=np.bool_))
    sets = {key: MaskSet.of(3, 3, [mask] * n) for key, n in zip(keys, (2, 3, 1), strict=True)}
    writer = MaskStoreWriter(tmp_path / "store", generator={"name": "x"}, keys=keys)
    writer.write(0, Part(sets, {}))
    assert [len(writer.finish()[key].masks) for key in keys] == [2, 3, 1]
    return tmp_path / "store"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ([0, 2, 5, 6], [0, 2, 5, 1 << 30]),  # lists
        ([0, 2, 5, 6], [0, -9, 5, 6]),
        ([0, 2, 5, 6], [0, 5, 2, 6]),
        ([0, 1, 3, 6], [0, 1, 1 << 30, 6]),  # keys
    ],
)
def test_offsets_of_a_mask_store_are_looked_at(store: Path, old: list[int], new: list[int]) -> None:
    replace_offsets(store / "masks-00000.arrow", old, new)
    with pytest.raises(maskcluster.FormatError, match=r"masks-00000\.arrow: damaged"):
        MaskStore.open(store)["bb"]


@pytest.mark.parametrize(
    ("name", "values"),
    [("height", [3, None, 3]), ("counts", [[b"0"] * 2, [None] * 3, [b"0"]]), ("key", [None] * 3)],
)
def test_values_that_lack_in_a_mask_store_are_looked_for(
    store: Path, name: str, values: list[object]
) -> None:
    path = store / "masks-00000.arrow"
    batch = pa.ipc.open_file(path.read_bytes()).get_batch(0)
    column = pa.array(values, batch.schema.field(name).type)
    changed = batch.set_column(batch.schema.names.index(name), batch.schema.field(name), column)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, batch.schema) as out:
        out.write_batch(changed)
    with pytest.raises(maskcluster.FormatError, match=r"masks-00000\.arrow: damaged"):
        MaskStore.open(store)["bb"]


@pytest.mark.parametrize("new", [[0, 1, 2, 1 << 30], [0, -9, 2, 3], [0, 3, 1, 3]])
def test_offsets_of_a_concept_archive_are_looked_at(tmp_path: Path, new: list[int]) -> None:
    rows = np.ones((3, 1), np.float32)
    keys = [f"set/0/{name}" for name in "abc"]
    pairs = Embeddings.from_arrays(keys, ["a dog"] * 3, rows)
    archive = build_archive(
        tmp_path,
        anchors=pairs,
        pool=pairs,
        vocabulary=Vocabulary(("dog",)),
        concept_features=rows[:1],
        config=ArchiveConfig(neighbours=2),
    )
    assert archive.batch(keys).offsets.tolist() == [0, 1, 2, 3]
    replace_offsets(tmp_path / "archive-00000.arrow", [0, 1, 2, 3], new)
    with pytest.raises(ConceptArchiveError, match=r"archive-00000\.arrow: "):
        ConceptArchive.open(tmp_path).batch(keys)
