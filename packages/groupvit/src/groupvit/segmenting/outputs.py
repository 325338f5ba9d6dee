"""Where pictures are written: names, checks before work starts, files that appear whole."""

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from groupvit.errors import GroupViTError, UsageError


@dataclass(frozen=True, slots=True)
class Job:
    """A picture to segment and the files to write; a file that is None is not wanted."""

    photo: Path
    overlay: Path
    labels: Path | None
    groups: Path | None


def plan(
    photos: Sequence[Path],
    out: Path,
    *,
    labels: Path | None = None,
    groups: Path | None = None,
    overwrite: bool = False,
    folders: bool = False,
) -> list[Job]:
    """Name the files of every picture and make sure that they can be written; makes none of them.

    Args:
        photos: what is segmented.
        out: of the overlays, a picture; or a folder for PNG files with the names of the pictures.
        labels: of the label maps, alike.
        groups: of the group maps, alike.
        overwrite: whether files that are there may be replaced.
        folders: whether `out`, `labels` and `groups` are folders.

    Raises:
        GroupViTError: a folder cannot be written.
        UsageError: a file exists, its suffix is not that of a picture, or a folder has one; a file
            is one of the pictures that are read, or two would be written to the same file.
    """
    places = {"out": out, "labels": labels, "groups": groups}
    files: dict[str, Sequence[Path | None]] = {}
    for option, place in places.items():
        if folders and place is not None:
            _check_folder(place, option)
        names = _names(photos) if folders else [""]
        files[option] = [None if place is None else place / name for name in names]
        for file in files[option]:
            if file is not None:
                _check_free(file, option, overwrite)
    written = [file for column in files.values() for file in column if file is not None]
    _check_apart(written, photos)
    for place in places.values():
        if place is not None:
            _check_writable(place if folders else place.parent)
    rows = zip(photos, files["out"], files["labels"], files["groups"], strict=True)
    return [Job(photo, file, *rest) for photo, file, *rest in rows if file is not None]


def save_picture(picture: Image.Image, out: Path) -> None:
    """Write a picture whole or not at all, in a folder that is made for it if it is not there.

    Raises:
        GroupViTError: it cannot be written.
    """
    unfinished = out.with_name(f".{out.stem}.tmp{out.suffix}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        picture.save(unfinished)
        unfinished.replace(out)
    except (OSError, ValueError) as error:
        if out.parent.is_dir():
            unfinished.unlink(missing_ok=True)
        raise GroupViTError(f"{out}: cannot be written ({error})") from error


def _names(photos: Sequence[Path]) -> list[str]:
    """PNG names: that of the picture, with its suffix where two differ in nothing else."""
    stems = Counter(photo.stem for photo in photos)
    return [f"{p.stem if stems[p.stem] == 1 else p.name}.png" for p in photos]


def _check_folder(place: Path, option: str) -> None:
    """A name such as o.png was meant for the picture of a single photograph."""
    if not place.is_dir() and place.suffix.lower() in Image.registered_extensions():
        raise UsageError(
            f"--{option} needs the name of a folder for several photographs or a folder of them, "
            f"got {place}"
        )


def _check_free(file: Path, option: str, overwrite: bool) -> None:
    if file.exists() and not overwrite:
        raise UsageError(f"{file}: exists; choose another name, or pass --overwrite true")
    wanted = "P" if option == "labels" else "RGB"
    kind = Image.registered_extensions().get(file.suffix.lower(), "")
    try:  # many formats are only read, or hold no RGB
        Image.new(wanted, (1, 1)).save(io.BytesIO(), kind)
    except (KeyError, OSError, ValueError) as error:
        raise UsageError(
            f"--{option} needs the name of a picture such as {option}.png, got {file}"
        ) from error
    if option == "labels" and kind != "PNG":  # others lose the values, or hold 8 bits
        raise UsageError(f"--labels needs a name that ends in .png, got {file}")


def _check_apart(files: Sequence[Path], photos: Sequence[Path]) -> None:
    read = {photo.resolve() for photo in photos}
    for file in files:
        if file.resolve() in read:
            raise UsageError(f"{file}: is read, and would be written over; choose another name")
    twice = [file for file, count in Counter(files).items() if count > 1]
    if twice:
        raise UsageError(f"{twice[0]}: would be written twice")


def _check_writable(folder: Path) -> None:
    """Try the nearest folder that is there, so that nothing is left when work never starts."""
    there = next(place for place in (folder, *folder.parents) if place.exists())
    probe = there / ".groupvit.tmp"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise GroupViTError(f"{folder}: cannot be written ({error.strerror})") from error
