"""The masks that a recipe can name: where they and their photographs lie, and how they are read."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from integration.papers.check import Need
from integration.papers.pixelclip.dino import MASKS, find_dino
from integration.papers.pixelclip.photographs import PhotoSet, find_set
from maskcluster import LabelMaps, MaskSource, MaskStore, Sa1bFolder, read_label_map, read_sa1b

Read = Callable[[Path, tuple[int, int]], object]
"""Reads the masks of one photograph from a file, and checks them against its (H, W)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskKind:
    """Photographs, and masks of them that are read or made."""

    folder: str
    """What the data check calls the photographs."""
    title: str
    """The same for people."""
    unit: str
    """What the masks of photographs are kept as; "" where they are made."""
    published: int
    """Photographs of the published run."""
    counted: str
    """What is said before that number."""
    get: str
    """How to get photographs and masks, for the data check."""
    find: Callable[[Path], PhotoSet]
    """Looks for photographs below a data folder; none is no error."""
    read: Read | None
    """None where masks are made."""
    open: Callable[[PhotoSet, Path | None], MaskSource]
    """All masks, as they lie with the photographs or in the folder of the stage `made_by`."""
    sample: str
    """Name of the stage that takes a few photographs in a rehearsal."""
    made_by: str = ""
    """Name of the stage that makes masks; "" where they are read."""
    needs: tuple[Need, ...] = ()
    """What is needed beside photographs and masks."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What a training depends on beside the files."""
    per_photo: int
    """Masks of a photograph: as many maps are decoded without clustering."""
    load_rate: str
    """Of the plan: photographs that a core loads."""


SA1B = "sa1b"
"""Folder of SA-1B below --data, with the folders of the archives inside."""
GET_SA1B = (
    "accept SA-1B's research licence (ai.meta.com/datasets/segment-anything-downloads), take its "
    "list of links, and unpack each archive into a folder of its name: mkdir -p "
    f"ROOT/{SA1B}/sa_000020 && tar -xf sa_000020.tar -C ROOT/{SA1B}/sa_000020. The paper took "
    "a random 5 % of SA-1B; its code lists a hundred archives (maskcluster's recipe pixelclip-sa1b)"
)

COCO_ROOTS = ("", "data", "local_data", "datasets")
COCO_HOMES = ("coco_stuff164k", "coco", "coco-stuff", "COCO", "")
"""Folders below --data that may hold COCO, as segbench looks for its validation part."""
COCO_IMAGES = ("images/train2017", "train2017")
COCO_MAPS = (
    ("annotations/train2017", ".png"),
    ("stuffthingmaps/train2017", ".png"),
    ("annotations/train2017", "_labelTrainIds.png"),
    ("annotations_detectron2/train2017", ".png"),
)
"""Where label maps lie, and how they end: as downloaded, of mmsegmentation and of detectron2. Ids
differ, regions do not, so that the first that is there is as good as any."""
GET_COCO = (
    "download train2017.zip from images.cocodataset.org/zips and stuffthingmaps_trainval2017.zip "
    "from calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset; unpack them to "
    "ROOT/coco/images and ROOT/coco/annotations, where the second has val2017 for the scores too"
)


def find_coco_stuff(data: Path) -> PhotoSet:
    """COCO's training photographs with the label maps of COCO-Stuff.

    Args:
        data: the data folder.

    Returns:
        The first place that has both; else the first that has photographs, all of them alone; else
        none, at the place that `GET_COCO` names.
    """
    lone = None
    for home in _coco_homes(data):
        for images in COCO_IMAGES:
            for maps, suffix in COCO_MAPS if (home / images).is_dir() else ():
                found = find_set(home / images, home / maps, suffix)
                if found.files:
                    return found
                lone = lone or found if found.alone else lone
    nowhere = data / "coco"
    return lone or find_set(nowhere / COCO_IMAGES[0], nowhere / COCO_MAPS[0][0], COCO_MAPS[0][1])


def _coco_homes(data: Path) -> Iterator[Path]:
    places = (data / root / home for root in COCO_ROOTS for home in COCO_HOMES)
    return (place for place in places if place.is_dir())


def _open_made(_: PhotoSet, made: Path | None) -> MaskSource:
    assert made is not None, "a stage makes these masks"
    return MaskStore.open(made / MASKS)


def _open_labels(photos: PhotoSet, _: Path | None, **options: Any) -> MaskSource:
    assert photos.masks is not None, "label maps are read"
    return LabelMaps(photos.masks, suffix=photos.suffix, **options)


_SA1B = MaskKind(
    folder=SA1B,
    title="SA-1B",
    unit="JSON",
    published=500_000,  # sec. 4.1: 5 % of SA-1B
    counted="the published run had some",
    get=GET_SA1B,
    find=lambda data: find_set(data / SA1B, data / SA1B, ".json"),
    read=lambda path, size: read_sa1b(path, size=size),
    open=lambda photos, _: Sa1bFolder(photos.folder),
    sample="sample-sa1b",
    per_photo=100,
    load_rate="masks_load",
)


_COCO_STUFF = MaskKind(
    folder="coco-stuff",
    title="COCO-Stuff",
    unit="label maps",
    published=118_287,
    counted="its training part has",
    get=GET_COCO,
    find=find_coco_stuff,
    read=lambda path, size: read_label_map(path, size=size),
    open=_open_labels,
    sample="sample-coco-stuff",
    per_photo=8,  # of 200 photographs of COCO with panoptic classes 7.5
    load_rate="masks_load_coco",
)

MASK_KINDS: Mapping[str, MaskKind] = {
    "sa1b": _SA1B,
    "dino": replace(
        _SA1B,
        unit="",
        find=lambda data: find_set(data / SA1B),
        read=None,
        open=_open_made,
        sample="sample-photographs",
        made_by="masks-dino",
        needs=(find_dino,),
        per_photo=16,
    ),
    "coco-stuff": _COCO_STUFF,
    "coco-stuff-components": replace(
        _COCO_STUFF,
        open=partial(_open_labels, part="component"),
        settings={"part": "component"},
        per_photo=120,  # of the same 200
    ),
}
"""By the name that recipes have for them."""
