from pathlib import Path

import numpy as np
import pytest

from conceptarchive import DataMissingError, FormatError
from conceptarchive.features.npyfile import NpyFile, members

ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, NpyFile]:
    """The same array in four kinds of file."""
    np.save(tmp_path / "a.npy", ROWS)
    np.save(tmp_path / "f.npy", np.asfortranarray(ROWS))
    np.savez(tmp_path / "stored.npz", other=ROWS[:1], x=ROWS, f=np.asfortranarray(ROWS))
    np.savez_compressed(tmp_path / "deflated.npz", other=ROWS[:1], x=ROWS)
    return {
        "npy": NpyFile(tmp_path / "a.npy"),
        "columns first": NpyFile(tmp_path / "f.npy"),
        "stored": NpyFile(tmp_path / "stored.npz", "x"),
        "stored, columns first": NpyFile(tmp_path / "stored.npz", "f"),
        "deflated": NpyFile(tmp_path / "deflated.npz", "x"),
    }


def test_every_kind_reads_alike(files: dict[str, NpyFile]) -> None:
    for kind, file in files.items():
        assert file.header() == (ROWS.shape, ROWS.dtype), kind
        np.testing.assert_array_equal(file.read(), ROWS, strict=True)
        for count in (0, 2, 9):
            np.testing.assert_array_equal(file.first_rows(count), ROWS[:count], strict=True)
        assert file.is_mapped() == isinstance(file.read(), np.memmap) == (kind != "deflated")


def test_arrays_of_an_archive_are_listed(files: dict[str, NpyFile]) -> None:
    assert members(files["stored"].path) == ["other", "x", "f"]
    with pytest.raises(FormatError, match=r"stored\.npz: has no array 'y'"):
        NpyFile(files["stored"].path, "y").header()
    with pytest.raises(FormatError, match=r"a\.npy: cannot be read"):
        members(files["npy"].path)
    files["stored"].path.write_bytes(b"")
    with pytest.raises(FormatError, match=r"stored\.npz: is empty \(0 bytes\)"):
        members(files["stored"].path)


def test_damage_is_named(files: dict[str, NpyFile]) -> None:
    file = files["npy"]
    whole = file.path.read_bytes()
    file.path.write_bytes(whole[:-5])
    with pytest.raises(FormatError, match=r"a\.npy: is cut short, 5 bytes are missing"):
        file.header()
    with pytest.raises(FormatError, match=r"a\.npy: is cut short, 5 bytes are missing"):
        file.read()
    file.path.write_bytes(b"")
    for look in (file.header, file.read):
        with pytest.raises(FormatError, match=r"a\.npy: is empty \(0 bytes\)"):
            look()
    file.path.write_bytes(whole[:6] + b"\x09" + whole[7:])
    with pytest.raises(FormatError, match=r"version \(9, 0\) of \.npy"):
        file.header()
    file.path.unlink()
    with pytest.raises(DataMissingError, match=r"a\.npy: is missing"):
        file.header()


def test_a_flipped_byte_of_a_compressed_array_is_found(files: dict[str, NpyFile]) -> None:
    file = files["deflated"]
    whole = bytearray(file.path.read_bytes())
    at = whole.index(b"x.npy") + 40
    whole[at] ^= 0xFF
    file.path.write_bytes(whole)
    with pytest.raises(FormatError, match=r"deflated\.npz\[x\]: cannot be read"):
        file.read()


def test_objects_are_never_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{}], object), allow_pickle=True)
    np.savez_compressed(tmp_path / "a.npz", x=np.array([{}], object))
    for file in (NpyFile(tmp_path / "a.npy"), NpyFile(tmp_path / "a.npz", "x")):
        with pytest.raises(FormatError, match="cannot be read"):
            file.read()
