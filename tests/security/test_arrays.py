"""NumPy's files: no objects, no shapes that are not there, no archives that inflate without end."""

import io
import struct
import zipfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from conceptarchive import ConceptArchiveError, Embeddings, FormatError, Vocabulary
from conceptarchive.cli import main as conceptarchive
from conceptarchive.features.npyfile import NpyFile
from integration.cocu import flickr8k
from integration.errors import DataMissingError
from segbench import FormatError as SegbenchFormatError
from segbench import PerImageCounts, load_task, score_folder
from segbench.protocols.bank_cache import cached_bank
from segbench.results.classification import Answers

LittleMemory = Callable[..., AbstractContextManager[None]]


def npy(shape: tuple[int, ...], data: bytes = b"", dtype: str = "<f4") -> bytes:
    """A .npy file that claims a shape."""
    header = repr({"descr": dtype, "fortran_order": False, "shape": shape}).encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def objects(trap: Any) -> bytes:
    """A .npy file with a pickle that runs code."""
    buffer = io.BytesIO()
    np.save(buffer, np.array([[trap]], object), allow_pickle=True)
    return buffer.getvalue()


def hostile(trap: Any) -> dict[str, bytes]:
    return {
        "objects": objects(trap),
        "pickle": b"\x80\x04" + objects(trap)[128:],
        "a petabyte": npy((1 << 24, 1 << 24)),
        "more than numbers can say": npy((1 << 40, 1 << 40)),
        "less than nothing": npy((-1, 1 << 40)),
        "cut short": npy((3, 3), bytes(8)),
        "nothing": b"",
    }


def test_the_trap_springs_where_objects_are_allowed(trap: Any) -> None:
    np.load(io.BytesIO(objects(trap)), allow_pickle=True)
    assert trap.sprung


def test_embeddings_are_refused(trap: Any, little_memory: LittleMemory, tmp_path: Path) -> None:
    good = np.eye(2, 4, dtype=np.float32)
    Embeddings.from_arrays(["set/0/a", "set/0/b"], ["a", "b"], good)
    for name, data in hostile(trap).items():
        for member in (None, "rows"):
            path = tmp_path / ("a.npy" if member is None else "a.npz")
            path.write_bytes(data)
            if member:
                with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
                    archive.writestr("rows.npy", data)
            for read in (NpyFile.read, NpyFile.header, lambda file: file.first_rows(9)):
                with little_memory(), pytest.raises(ConceptArchiveError) as caught:
                    read(NpyFile(path, member))
                assert str(path) in str(caught.value), name
    assert not trap.sprung


def test_an_archive_that_inflates_is_refused(little_memory: LittleMemory, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("rows.npy", "w") as file,
    ):
        file.write(npy((400 << 18, 1)))
        for _ in range(400):
            file.write(bytes(1 << 20))
    with little_memory(), pytest.raises(FormatError, match=r"would become \d+; no embeddings"):
        NpyFile(path, "rows").read()


def test_rows_of_concepts_are_refused_by_the_command(
    trap: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "rows.npy"
    rows.write_bytes(objects(trap))
    Vocabulary(("dog",)).save(tmp_path / "words.txt")
    folder = tmp_path / "emb"
    for name in ("img_emb", "metadata"):
        (folder / name).mkdir(parents=True)
    np.save(folder / "img_emb" / "img_emb_0.npy", np.ones((1, 1), np.float16))
    table = folder / "metadata" / "metadata_0.parquet"
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"image_path": ["set/0/a"], "caption": ["a dog"]}), table)
    given = ["--vocabulary.file", tmp_path / "words.txt", "--concept_features", rows]
    assert conceptarchive(["build", str(folder), str(tmp_path / "out"), *map(str, given)]) != 0
    assert "rows.npy: not a .npy of rows" in capsys.readouterr().err
    assert not trap.sprung


def test_saved_label_maps_are_refused(
    trap: Any, little_memory: LittleMemory, tmp_path: Path
) -> None:
    root = tmp_path / "data"
    for place in ("images/val", "masks/val"):
        (root / place).mkdir(parents=True)
    Image.new("RGB", (4, 3)).save(root / "images/val/a.png")
    Image.new("L", (4, 3)).save(root / "masks/val/a.png")
    (root / "labels.tsv").write_text("mask_value\tname\n0\tsky\n")
    task = load_task("camvid11@groupvit").with_dataset(folder="data")
    (tmp_path / "saved").mkdir()
    for name, data in hostile(trap).items():
        (tmp_path / "saved" / "a.npy").write_bytes(data)
        with little_memory(1 << 30), pytest.raises(SegbenchFormatError) as caught:
            score_folder(tmp_path / "saved", task, root=tmp_path)
        assert "a.npy: " in str(caught.value), name
    assert not trap.sprung


@pytest.mark.parametrize("kind", [PerImageCounts, Answers])
def test_counts_of_a_run_are_refused(kind: Any, trap: Any, tmp_path: Path) -> None:
    path = tmp_path / "counts.npz"
    np.savez_compressed(path, kind=np.array("x"), ids=np.array([trap], object))
    with pytest.raises(SegbenchFormatError, match=r"counts\.npz: cannot be read"):
        kind.read(path)
    path.write_bytes(objects(trap))
    with pytest.raises(SegbenchFormatError, match=r"counts\.npz: "):
        kind.read(path)
    assert not trap.sprung


def test_a_kept_text_bank_is_refused(trap: Any, tmp_path: Path) -> None:
    def bank() -> torch.Tensor:
        return cached_bank(tmp_path, "f" * 64, {"names": []}, lambda: torch.ones(1, 2))

    assert bank().shape == (1, 2)
    (path,) = tmp_path.glob("bank-*.npy")
    path.write_bytes(objects(trap))
    with pytest.raises(SegbenchFormatError, match="damaged text bank"):
        bank()
    assert not trap.sprung


def test_features_of_flickr8k_are_refused(trap: Any, tmp_path: Path) -> None:
    features = tmp_path / "clip_vitb32_features"
    features.mkdir()
    (tmp_path / "flickr8k").mkdir()
    for name in ("captions_train.tsv", "captions_val.tsv"):
        (tmp_path / "flickr8k" / name).write_text("image\tcaption_id\tcaption\n")
    (features / "flickr8k_image_features.tsv").write_text("image\na.jpg\n")
    (features / "flickr8k_image_features.npy").write_bytes(objects(trap))
    with pytest.raises(DataMissingError, match="features cannot be read"):
        flickr8k.read_photos(tmp_path)
    assert not trap.sprung
