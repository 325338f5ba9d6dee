import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from maskcluster.errors import DataError, FormatError, UsageError
from maskcluster.masks.mask_set import MaskRules, MaskSet, MaskSource
from maskcluster.masks.rle import Rle
from maskcluster.masks.store import MANIFEST, MaskStore, MaskStoreWriter, Part

GENERATOR = {"name": "random", "seed": 0}
KEYS = [f"photo{i:02d}" for i in range(7)]


def masks_of(key: str) -> MaskSet:
    rng = np.random.default_rng(int(key[5:]))
    masks = [Rle.from_mask(rng.random((9, 13)) < 0.4) for _ in range(int(key[5:]) % 4)]
    count = len(masks)
    return MaskSet.of(
        9, 13, masks, predicted_iou=rng.random(count), stability=rng.random(count),
        points=rng.random((count, 2)), crops=rng.integers(0, 9, (count, 4)), source="random",
    ).select(range(count))  # fmt: skip


def writer(folder: Path, **changes: Any) -> MaskStoreWriter:
    options: dict[str, Any] = {"generator": GENERATOR, "keys": KEYS, "part_size": 3} | changes
    return MaskStoreWriter(folder, **options)


def part(writer: MaskStoreWriter, number: int) -> Part:
    keys = writer.keys_of(number)
    return Part(
        {key: masks_of(key) for key in keys if key != "photo04"},
        {key: "damaged" for key in keys if key == "photo04"},
    )


def build(folder: Path) -> MaskStore:
    making = writer(folder)
    while making.first_missing < making.parts:
        making.write(making.first_missing, part(making, making.first_missing))
    return making.finish()


def all_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_what_is_written_is_read_again_equal(tmp_path: Path) -> None:
    store = build(tmp_path / "store")
    assert isinstance(store, MaskSource)
    assert list(store.keys()) == list(store) == [key for key in KEYS if key != "photo04"]
    assert len(store) == 6
    assert store.skipped == {"photo04": "damaged"}
    for key in reversed(store.keys()):
        found, expected = store[key], masks_of(key)
        assert found.masks == expected.masks
        assert (found.height, found.width, found.source) == (9, 13, "random")
        for name in ("predicted_iou", "stability", "points", "crops"):
            assert np.array_equal(getattr(found, name), getattr(expected, name)), name
            assert getattr(found, name).dtype == getattr(expected, name).dtype
    store.check()


def test_columns_hold_areas_and_boxes_for_other_tools(tmp_path: Path) -> None:
    store = build(tmp_path / "store")
    with pa.memory_map(str(store.folder / "masks-00000.arrow")) as source:
        table = pa.ipc.open_file(source).read_all()
    rows = table.to_pylist()
    assert [row["key"] for row in rows] == KEYS[:3]
    assert rows[2]["area"] == masks_of("photo02").areas.tolist()
    assert rows[2]["box"] == masks_of("photo02").boxes.tolist()
    assert table.schema.metadata[b"kind"] == b"maskcluster.masks"
    assert table.schema.metadata[b"version"] == b"1"


def test_keys_that_are_not_there_are_errors(tmp_path: Path) -> None:
    store = build(tmp_path / "store")
    assert "photo01" in store
    for key in ("", "photo04", "photo99", "photo0"):
        assert key not in store
        with pytest.raises(KeyError):
            store[key]
    assert store.keys()[-1] == "photo06"
    assert store.keys()[1:3] == ["photo01", "photo02"]
    with pytest.raises(IndexError):
        store.keys()[6]


def test_a_pickled_copy_reads_the_same(tmp_path: Path) -> None:
    store = build(tmp_path / "store")
    copy = pickle.loads(pickle.dumps(store))
    assert copy["photo03"].masks == store["photo03"].masks


def test_rules_apply_on_reading(tmp_path: Path) -> None:
    build(tmp_path / "store")
    store = MaskStore.open(tmp_path / "store", rules=MaskRules(max_masks=1))
    assert len(store["photo03"]) == 1
    assert store["photo03"].dropped == {"smaller than the 1 largest": 2}


def test_a_build_that_was_killed_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    whole = build(tmp_path / "whole")
    cut = tmp_path / "cut"
    first = writer(cut)
    first.write(0, part(first, 0))
    (cut / "masks-00001.arrow.1234.part").write_bytes(b"half")
    with pytest.raises(DataError, match="was stopped"):
        MaskStore.open(cut)
    second = writer(cut)
    assert second.first_missing == 1
    assert build(cut).fingerprint == whole.fingerprint
    assert all_bytes(cut) == all_bytes(tmp_path / "whole")


def test_a_finished_store_is_taken_as_finished(tmp_path: Path) -> None:
    build(tmp_path / "store")
    before = all_bytes(tmp_path / "store")
    again = writer(tmp_path / "store")
    assert again.first_missing == again.parts == 3
    again.finish()
    assert all_bytes(tmp_path / "store") == before


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"generator": GENERATOR | {"seed": 1}}, r"another generator \(seed 0 there, 1 here\)"),
        ({"keys": KEYS[1:]}, "other photographs"),
        ({"part_size": 4}, "another size"),
    ],
)
def test_two_generators_are_not_mixed(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    build(tmp_path / "store")
    with pytest.raises(UsageError, match=reason):
        writer(tmp_path / "store", **change)


def test_a_folder_of_other_things_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="holds other files"):
        writer(tmp_path)


def test_what_a_kill_before_the_manifest_leaves_is_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("")
    (tmp_path / "store.json.1234.part").write_text("{")
    assert writer(tmp_path).first_missing == 0
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("keys", [["b", "a"], ["a", "a"]])
def test_keys_must_ascend(tmp_path: Path, keys: list[str]) -> None:
    with pytest.raises(ValueError, match="ascend"):
        writer(tmp_path / "store", keys=keys)


def test_a_part_has_all_of_its_keys(tmp_path: Path) -> None:
    making = writer(tmp_path / "store")
    with pytest.raises(ValueError, match="part 0"):
        making.write(0, part(making, 1))
    with pytest.raises(UsageError, match="part 0 is not written"):
        making.finish()


def test_a_shard_of_another_build_is_refused(tmp_path: Path) -> None:
    build(tmp_path / "a")
    other = writer(tmp_path / "b", generator={"name": "other"})
    for path in (tmp_path / "a").glob("*.arrow"):
        (tmp_path / "b" / path.name).write_bytes(path.read_bytes())
    with pytest.raises(FormatError, match="another build"):
        other.finish()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda p: (p / "masks-00001.arrow").unlink(), "is missing"),
        (lambda p: (p / "masks-00001.arrow").write_bytes(b"x" * 99), "checksum differs"),
        (lambda p: (p / MANIFEST).write_text("{}"), "not a mask store"),
        (lambda p: (p / MANIFEST).write_text("{"), "not JSON"),
        (lambda p: change_manifest(p, version=9), "version 9, this program reads version 1"),
        (lambda p: change_manifest(p, shards=None), "has no shards"),
    ],
)
def test_damage_is_found(tmp_path: Path, damage: Any, reason: str) -> None:
    folder = build(tmp_path / "store").folder
    damage(folder)
    with pytest.raises(FormatError, match=reason):
        MaskStore.open(folder).check()


def test_a_damaged_shard_is_refused_when_read(tmp_path: Path) -> None:
    store = build(tmp_path / "store")
    path = store.folder / "masks-00001.arrow"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(FormatError, match="damaged"):
        store["photo05"]


def test_no_store_is_data_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no mask store"):
        MaskStore.open(tmp_path)


def test_a_part_without_masks_is_written(tmp_path: Path) -> None:
    making = MaskStoreWriter(tmp_path / "s", generator=GENERATOR, keys=["a"], part_size=2)
    making.write(0, Part({}, {"a": "damaged"}))
    store = making.finish()
    assert len(store) == 0
    assert list(store.keys()) == []
    assert store.skipped == {"a": "damaged"}


def change_manifest(folder: Path, **changes: Any) -> None:
    manifest = json.loads((folder / MANIFEST).read_text()) | changes
    (folder / MANIFEST).write_text(json.dumps({k: v for k, v in manifest.items() if v is not None}))
