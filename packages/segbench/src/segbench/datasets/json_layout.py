"""Label maps that are painted from one JSON file of annotations."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segbench.datasets.annotations import group_by_image, image_size, load_json, paint
from segbench.datasets.layout import (
    JPEG,
    Entry,
    Stock,
    find_split,
    first_folder,
    index_files,
    read_split,
)
from segbench.datasets.lookup import Table
from segbench.datasets.pictures import Indices
from segbench.errors import FormatError


@dataclass(frozen=True, kw_only=True, slots=True)
class JsonLayout:
    """One JSON file with the annotations of all images, which are painted when an image is read.

    The whole file is read to list it.
    """

    name: str
    """What the option `layout` calls it."""

    images: tuple[str, ...]
    """Folders of the images, relative to the home; the first that exists is taken."""

    annotations: str
    """The file, relative to the home."""

    list_key: str = "annotations"
    """Key of the list of annotations, beside "images"."""

    id_key: str = "id"
    """Key of an image's number, which annotations have as `image_id`."""

    phase: str = ""
    """Images of this `phase` make the data set; empty: all."""

    make_table: Callable[[], Table]
    """Makes the look-up table from category ids."""

    paint: Callable[[Sequence[Mapping[str, Any]], tuple[int, int], Path], Indices] = paint
    """Paints the annotations of an image of some (H, W); the path is for errors."""

    @property
    def needs(self) -> str:
        """The file that tells this layout, relative to the home of the data set."""
        return self.annotations

    def place(self, home: Path) -> Path:
        """The annotations."""
        return home / self.annotations

    def is_at(self, home: Path) -> bool:
        """Whether the annotations are there."""
        return self.place(home).is_file()

    def take_stock(self, home: Path, split: str) -> Stock:
        """List the images of the phase, or those of `split`; one may have no annotation."""
        path = self.place(home)
        content = load_json(path, "images", self.list_key)
        described = _by_stem(content["images"], path)
        in_phase = [
            name
            for name, image in described.items()
            if not self.phase or image.get("phase") == self.phase
        ]
        listed = find_split(home, split, ()) if split else path
        names = sorted(read_split(listed) if split else in_phase)
        wanted = {described[name].get(self.id_key) for name in names if name in described}
        grouped = group_by_image(
            [each for each in content[self.list_key] if each.get("image_id") in wanted]
        )
        folder = first_folder(home, self.images)
        files = index_files(folder, JPEG, nested=False)

        def read(entry: Entry) -> Indices:
            image = described[entry.id]
            own = grouped.get(image.get(self.id_key), [])
            return self.paint(own, image_size(image, path), path)

        found = [name for name in names if name in files and name in described]
        return Stock(
            entries=tuple(Entry(name, files[name], path) for name in found),
            no_label=tuple(name for name in names if name not in described),
            no_image=tuple(name for name in names if name not in files),
            images=folder,
            labels=path,
            listed=str(listed),
            table=self.make_table(),
            read=read,
        )


def _by_stem(images: Sequence[Mapping[str, Any]], path: Path) -> dict[str, Mapping[str, Any]]:
    """Descriptions of images by the stem of their file name."""
    described = {Path(str(image.get("file_name"))).stem: image for image in images}
    if len(described) < len(images):
        raise FormatError(f"{path}: lists an image more than once")
    return described
