"""How a data set lies on disk: which files belong together, and what their values mean."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from segbench.datasets.lookup import Table
from segbench.datasets.pictures import Indices, read_indices
from segbench.errors import DataMissingError, FormatError

JPEG = (".jpg", ".jpeg")


@dataclass(frozen=True, slots=True)
class Entry:
    """An image and the file that labels it."""

    id: str
    """Name of the image file without its suffix; unique within the data set."""

    image: Path
    label: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Stock:
    """What a layout holds at one place."""

    entries: tuple[Entry, ...]
    """Complete ones, in the order of their ids."""

    no_label: tuple[str, ...]
    """Ids of images that should have a label and have none."""

    no_image: tuple[str, ...]
    """Ids of labels that should have an image and have none."""

    images: Path
    """Folder of the images."""

    labels: Path
    """Folder or file of the labels."""

    listed: str
    """Where the list of ids comes from."""

    table: Table
    """Label id by stored value."""

    read: Callable[[Entry], Indices]
    """Stored values of an entry; raises a `SegbenchError`."""


class Layout(Protocol):
    """One way in which a data set lies on disk."""

    @property
    def name(self) -> str:
        """What the option `layout` calls it."""
        ...

    @property
    def needs(self) -> str:
        """The label files that tell this layout, relative to the home of the data set."""
        ...

    @property
    def images(self) -> tuple[str, ...]:
        """Folders of the images, relative to the home; the first that exists is taken."""
        ...

    def place(self, home: Path) -> Path:
        """Folder or file of the labels."""
        ...

    def is_at(self, home: Path) -> bool:
        """Whether its label files are there."""
        ...

    def take_stock(self, home: Path, split: str) -> Stock:
        """List the files.

        Raises:
            DataMissingError: a folder or the split file is missing.
            FormatError: two files have one id, or a list contradicts itself.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class FileLayout:
    """One label file an image, in two folders."""

    name: str
    """What the option `layout` calls it."""

    images: tuple[str, ...]
    """Folders of the images, relative to the home; the first that exists is taken."""

    labels: str
    """Folder of the label files, relative to the home."""

    image_suffixes: tuple[str, ...] = JPEG
    """Endings that make an image file; what is before is the id."""

    label_suffix: str
    """Ending that makes a label file of this layout; what is before is the id."""

    other_suffixes: tuple[str, ...] = ()
    """Longer endings in the same folder that belong to other layouts."""

    listing: Literal["split", "labels", "pairs"]
    """Which ids make the data set: those of a split file, of the label folder, or all of both."""

    splits: tuple[str, ...] = ()
    """Split files, relative to the home, where `listing` is "split"."""

    nested: bool = False
    """Whether files lie one folder deeper, by city or class."""

    make_table: Callable[[], Table]
    """Makes the look-up table."""

    read_file: Callable[[Path], Indices] = read_indices
    """Reads a label file as stored values."""

    @property
    def needs(self) -> str:
        """The label files that tell this layout, relative to the home of the data set."""
        return f"{self.labels}/{'*/' if self.nested else ''}*{self.label_suffix}"

    def place(self, home: Path) -> Path:
        """Folder of the label files."""
        return home / self.labels

    def is_at(self, home: Path) -> bool:
        """Whether one label file is there."""
        return any(True for _ in self._label_files(home))

    def take_stock(self, home: Path, split: str) -> Stock:
        """List the files."""
        folder = self.image_folder(home)
        images = index_files(folder, self.image_suffixes, nested=self.nested)
        labels = by_id(self._label_files(home), (self.label_suffix,))
        names, listed = self._ids(home, split, images, labels)
        return Stock(
            entries=tuple(
                Entry(name, images[name], labels[name])
                for name in sorted(names)
                if name in images and name in labels
            ),
            no_label=tuple(sorted(name for name in names if name not in labels)),
            no_image=tuple(sorted(name for name in names if name not in images)),
            images=folder,
            labels=self.place(home),
            listed=listed,
            table=self.make_table(),
            read=lambda entry: self.read_file(entry.label),
        )

    def image_folder(self, home: Path) -> Path:
        """Folder of the images.

        Raises:
            DataMissingError: there is none.
        """
        return first_folder(home, self.images)

    def _label_files(self, home: Path) -> Iterable[Path]:
        files = walk(self.place(home), (self.label_suffix,), nested=self.nested)
        return (path for path in files if not path.name.endswith(self.other_suffixes))

    def _ids(
        self, home: Path, split: str, images: Mapping[str, Path], labels: Mapping[str, Path]
    ) -> tuple[set[str], str]:
        if split or self.listing == "split":
            path = find_split(home, split, self.splits)
            return set(read_split(path)), str(path)
        if self.listing == "labels":
            return set(labels), str(self.place(home))
        return set(images) | set(labels), f"{self.image_folder(home)} and {self.place(home)}"


def first_folder(home: Path, folders: Sequence[str]) -> Path:
    """The first of `folders` that exists in `home`.

    Raises:
        DataMissingError: none does.
    """
    for folder in folders:
        if (home / folder).is_dir():
            return home / folder
    raise DataMissingError(f"no folder {' or '.join(folders)} in {home}")


def walk(folder: Path, suffixes: tuple[str, ...], *, nested: bool) -> Iterable[Path]:
    """Files of `folder`, or of the folders in it, that end in one of `suffixes`, in any case.

    Names that start with a dot, such as those that macOS leaves in archives, are not data.
    """
    paths = folder.glob("*/*") if nested else folder.glob("*")
    return (
        path
        for path in paths
        if path.name.lower().endswith(tuple(s.lower() for s in suffixes))
        and not path.name.startswith(".")
    )


def index_files(folder: Path, suffixes: tuple[str, ...], *, nested: bool) -> dict[str, Path]:
    """Files by id.

    Raises:
        FormatError: two files have one id.
    """
    return by_id(walk(folder, suffixes, nested=nested), suffixes)


def by_id(paths: Iterable[Path], suffixes: tuple[str, ...]) -> dict[str, Path]:
    """Paths by name without suffix, sorted.

    Raises:
        FormatError: two files have one id.
    """
    found: dict[str, Path] = {}
    for path in sorted(paths):
        suffix = next(s for s in suffixes if path.name.lower().endswith(s.lower()))
        name = path.name[: len(path.name) - len(suffix)]
        if name in found:
            raise FormatError(f"{path} and {found[name]} have the same id {name!r}")
        found[name] = path
    return dict(sorted(found.items()))


def find_split(home: Path, split: str, candidates: Sequence[str]) -> Path:
    """The split file: the one asked for, else the only one of `candidates` that is there.

    Raises:
        DataMissingError: it is not there.
        FormatError: two are there and list different ids.
    """
    if split:
        found = [path for path in (home / split, Path(split)) if path.is_file()]
        if not found:
            raise DataMissingError(f"no split file {split} in {home}")
        return found[0]
    paths = [home / name for name in candidates if (home / name).is_file()]
    if not paths:
        raise DataMissingError(
            f"no split file {' or '.join(candidates)} in {home}; option split names another"
        )
    for path in paths[1:]:
        if set(read_split(path)) != set(read_split(paths[0])):
            raise FormatError(
                f"{paths[0]} and {path} list different images; choose with the option split"
            )
    return paths[0]


def read_split(path: Path) -> list[str]:
    """Ids of a split file: the first word of each line, without an image suffix.

    Raises:
        FormatError: it is empty, no text, or lists an id twice.
    """
    try:
        words = [line.split()[0] for line in path.read_text("utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: a split file must be text: {error}") from error
    names = [Path(word).stem if word.lower().endswith(JPEG) else word for word in words]
    if not names:
        raise FormatError(f"{path}: lists no image")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise FormatError(f"{path}: lists {twice} more than once")
    return names
