import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from conceptarchive.embedding.plan import ENDS, partition_name, plan_partitions
from conceptarchive.errors import DataMissingError, FormatError, StaleFolderError, UsageError


def make_shards(folder: Path, *names: str) -> list[Path]:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_bytes(name.encode() * 50_000)
    return [folder / name for name in names]


def mark_embedded(out: Path, number: int) -> None:
    """Leave the files of a partition."""
    for name in ("metadata", "img_emb", "text_emb"):
        path = out / name / f"{name}_{number:05d}.{'parquet' if name == 'metadata' else 'npy'}"
        path.parent.mkdir(exist_ok=True)
        path.touch()


def plan(shards: list[Path], out: Path, **settings: object) -> list[tuple[int, str]]:
    arguments = {"encoder_id": "e"} | settings
    return [(number, shard.name) for number, shard in plan_partitions(shards, out, **arguments)]  # type: ignore[arg-type]


def test_shards_keep_their_partition_when_more_are_given(tmp_path: Path) -> None:
    out, folder = tmp_path / "out", tmp_path / "cc"
    assert plan(make_shards(folder, "b.tar", "d.tar"), out) == [(0, "b.tar"), (1, "d.tar")]
    more = make_shards(folder, "a.tar", "b.tar", "c.tar", "d.tar")
    expected = [(0, "b.tar"), (1, "d.tar"), (2, "a.tar"), (3, "c.tar")]
    assert plan(more, out) == expected
    record = (out / "embed.json").read_bytes()
    assert plan(more[::-1], out) == expected
    assert (out / "embed.json").read_bytes() == record
    assert [row[:2] for row in json.loads(record)["shards"]] == [
        ["cc/b", 250_000], ["cc/d", 250_000], ["cc/a", 250_000], ["cc/c", 250_000],
    ]  # fmt: skip
    with pytest.raises(StaleFolderError, match="'cc/d' is not given now"):
        plan(more[:3], out)


@pytest.mark.parametrize("at", [0, ENDS - 1, -1, -ENDS])
def test_changed_shard_is_refused_by_name(tmp_path: Path, at: int) -> None:
    shards = make_shards(tmp_path / "cc", "a.tar", "b.tar")
    plan(shards, tmp_path / "out")
    mark_embedded(tmp_path / "out", 1)
    data = bytearray(shards[1].read_bytes())
    data[at] ^= 1
    shards[1].write_bytes(data)
    with pytest.raises(StaleFolderError, match="shard 'cc/b' has changed"):
        plan(shards, tmp_path / "out")


def test_a_shard_may_change_until_it_is_embedded(tmp_path: Path) -> None:
    shards = make_shards(tmp_path / "cc", "a.tar", "b.tar")
    plan(shards, tmp_path / "whole")
    whole = shards[1].read_bytes()
    shards[1].write_bytes(whole[:99])
    plan(shards, tmp_path / "out")
    mark_embedded(tmp_path / "out", 0)
    shards[1].write_bytes(whole)
    assert plan(shards, tmp_path / "out") == [(0, "a.tar"), (1, "b.tar")]
    records = [tmp_path / name / "embed.json" for name in ("out", "whole")]
    assert records[0].read_bytes() == records[1].read_bytes()
    shards[0].write_bytes(whole)
    with pytest.raises(StaleFolderError, match="'cc/a' has changed since it was embedded"):
        plan(shards, tmp_path / "out")


def test_small_shard_is_hashed_whole(tmp_path: Path) -> None:
    shard = tmp_path / "a.tar"
    for size in (0, 1, ENDS, ENDS + 1, 2 * ENDS):
        shard.write_bytes(b"x" * size)
        plan([shard], tmp_path / f"out{size}")
        mark_embedded(tmp_path / f"out{size}", 0)
        if size:
            shard.write_bytes(b"x" * (size // 2) + b"y" + b"x" * (size - size // 2 - 1))
            with pytest.raises(StaleFolderError, match="changed"):
                plan([shard], tmp_path / f"out{size}")


def test_changed_folder_of_images_is_refused(tmp_path: Path) -> None:
    [image] = make_shards(tmp_path / "photos", "a.jpg")
    plan([image.parent], tmp_path / "photos" / "out")
    (image.parent / "notes.md").write_text("no image, no caption")
    (image.parent / "notes.json").write_text("{}")
    assert plan([image.parent], tmp_path / "photos" / "out") == [(0, "photos")]
    make_shards(image.parent / "inner", "b.jpg")
    mark_embedded(image.parent / "out", 0)
    with pytest.raises(StaleFolderError, match=r"photos.* has changed"):
        plan([image.parent], tmp_path / "photos" / "out")


def test_changed_caption_beside_an_image_is_refused(tmp_path: Path) -> None:
    [image] = make_shards(tmp_path / "photos", "a.jpg")
    image.with_suffix(".json").write_text("{}")
    (image.parent / "gone.jpg").symlink_to(tmp_path / "nowhere")
    plan([image.parent], tmp_path / "out")
    assert plan([image.parent], tmp_path / "out") == [(0, "photos")]
    mark_embedded(tmp_path / "out", 0)
    image.with_suffix(".json").write_text("{ }")
    with pytest.raises(StaleFolderError, match="has changed"):
        plan([image.parent], tmp_path / "out")


def test_other_settings_are_refused_with_both_values(tmp_path: Path) -> None:
    shards = make_shards(tmp_path / "cc", "a.tar")
    plan(shards, tmp_path / "out")
    with pytest.raises(StaleFolderError, match=r"another 'encoder' \('e', now 'f'\)"):
        plan(shards, tmp_path / "out", encoder_id="f")
    with pytest.raises(StaleFolderError, match=r"another 'text' \(True, now False\)"):
        plan(shards, tmp_path / "out", with_text=False)
    with pytest.raises(StaleFolderError, match="'cc/a' is not given now"):
        plan(shards, tmp_path / "out", dataset="other")
    with pytest.raises(UsageError, match="share the name 'cc/a'"):
        plan(shards * 2, tmp_path / "out")
    with pytest.raises(DataMissingError, match="no such shard"):
        plan([tmp_path / "none.tar"], tmp_path / "out")


def test_version_1_and_damaged_records_say_so(tmp_path: Path) -> None:
    shards = make_shards(tmp_path / "cc", "a.tar")
    path = tmp_path / "out" / "embed.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"kind": "embeddings", "version": 1, "shards": [["cc/a", 9]]}))
    with pytest.raises(StaleFolderError, match="version 1, this release continues version 2"):
        plan(shards, path.parent)
    for text in ("{", "[]", "{}", '{"version": 2, "shards": [[1]]}'):
        path.write_text(text)
        with pytest.raises(FormatError, match=r"embed\.json: not a record of embed"):
            plan(shards, path.parent)


def test_planners_at_the_same_time_agree(tmp_path: Path) -> None:
    shards = make_shards(tmp_path / "cc", *(f"{n}.tar" for n in range(9)))
    with ThreadPoolExecutor(8) as threads:
        for _ in range(5):
            plans = threads.map(lambda _: plan(shards, tmp_path / "out"), range(8))
            assert len({tuple(one) for one in plans}) == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["embed.json"]


def test_names_of_partitions_sort_as_their_numbers() -> None:
    numbers = [0, 9, 10, 99_999]
    assert sorted(map(partition_name, numbers)) == [partition_name(number) for number in numbers]
