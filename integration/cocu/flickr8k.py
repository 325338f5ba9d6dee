"""CoCu on real photographs, real captions and real CLIP features (Flickr8k).

Every photograph has five captions. The system is given one; what the other four name and the given
one does not is the truth that curation is judged by. Features are OpenAI CLIP ViT-B/32's.
"""

import csv
import io
import json
import tarfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from conceptarchive import Embeddings, MentionFinder, Vocabulary
from integration.cocu.curation import curate
from integration.cocu.recipe import Recipe
from integration.cocu.stages import train_and_score
from integration.errors import DataMissingError, RecipeError
from integration.stage import Stage, write_text
from integration.wiring import DATASET, as_sets, read_truth, write_truth
from segbench import load_task, open_dataset

FloatArray = npt.NDArray[np.float32]

SHARD = "00000"
NAME_LISTS = ("coco80", "lvis1203", "openimages500", "objects365")
KS = (1, 3, 5, 10)
ENCODER = "OpenAI CLIP ViT-B/32, prompt 'a NAME'"


@dataclass(frozen=True, slots=True)
class Photo:
    """A photograph with its captions and CLIP's view of it."""

    file: Path
    captions: tuple[str, ...]
    feature: FloatArray
    """(512,) unit length."""


def photo_stages(recipe: Recipe, seeds: Sequence[int], out: Path, data: Path | None) -> list[Stage]:
    """All stages of the recipe on Flickr8k.

    Raises:
        RecipeError: no data folder was given.
        DataMissingError: it lacks a file that the recipe reads.
    """
    if data is None:
        raise RecipeError(f"recipe {recipe.name} reads photographs: say where with --data FOLDER")
    if "upper-bound" in recipe.arms:
        raise RecipeError("upper-bound needs true labels, which Flickr8k lacks; leave the arm out")
    data = data.resolve()
    check_data(data)
    task = load_task(recipe.evaluate.task)
    open_dataset(task.dataset, data)  # what is missing should be known before the training
    settings = {"photos": asdict(recipe.photos), "files": data_files(data)}
    pairs = Stage(
        name="pairs",
        settings=settings,
        run=partial(write_photo_pairs, recipe, data),
        cost=recipe.costs.get("pairs", 1),
    )
    archive = Stage(
        name="archive",
        settings={"archive": asdict(recipe.archive), "photos": asdict(recipe.photos)},
        inputs=(pairs,),
        run=partial(_curate, recipe, data),
        cost=recipe.costs.get("archive", 1),
    )
    return [pairs, archive, *train_and_score(recipe, seeds, out, pairs, archive, task, data)]


def read_photos(data: Path) -> list[Photo]:
    """Photographs that have both captions and an image feature, sorted by file name.

    Raises:
        DataMissingError: features cannot be read, or their rows do not match their table.
    """
    captions: dict[str, dict[int, str]] = {}
    for name in ("captions_train.tsv", "captions_val.tsv"):
        for row in _rows(data / "flickr8k" / name):
            captions.setdefault(row["image"], {})[int(row["caption_id"])] = row["caption"]
    features = data / "clip_vitb32_features"
    table = _rows(features / "flickr8k_image_features.tsv")
    values = _unit(_read_array(features / "flickr8k_image_features.npy"))  # (n, 512)
    if len(values) != len(table):
        raise DataMissingError(
            f"{features}/flickr8k_image_features: {len(values)} rows of features and {len(table)} "
            "rows of names; take both from the same source"
        )
    photos = {
        row["image"]: Photo(
            data / "flickr8k" / "images" / row["image"],
            tuple(text for _, text in sorted(captions[row["image"]].items())),
            value,
        )
        for row, value in zip(table, values, strict=True)
        if row["image"] in captions
    }
    return [photos[name] for name in sorted(photos)]


def given_caption(photo: Photo, number: int) -> str:
    """The caption that the system gets.

    Raises:
        RecipeError: the photograph has no such caption.
    """
    if number >= len(photo.captions):
        raise RecipeError(
            f"photos.caption = {number}, but {photo.file.name} has {len(photo.captions)} captions"
        )
    return photo.captions[number]


def read_concepts(data: Path) -> tuple[list[str], FloatArray]:
    """Names with real text features: plain lower-case names, each once, and (V, 512) unit rows.

    Raises:
        DataMissingError: features cannot be read, or their rows do not match their table.
    """
    found: dict[str, FloatArray] = {}
    for source in NAME_LISTS:
        path = data / "clip_vitb32_features" / f"text_{source}"
        table = _rows(path.with_suffix(".tsv"))
        values = _unit(_read_array(path.with_suffix(".npy")))  # (n, 512)
        if len(values) != len(table):
            raise DataMissingError(f"{path}: {len(values)} rows of features, {len(table)} names")
        for row, value in zip(table, values, strict=True):
            name = row["name"].split("_(")[0].replace("_", " ").strip().lower()
            found.setdefault(name, value)
    return list(found), np.stack(list(found.values()))


def write_photo_pairs(recipe: Recipe, data: Path, folder: Path) -> None:
    """Write one shard of photographs with their given captions, bytes unchanged."""
    unfinished = folder / f"{SHARD}.tar.tmp"
    with tarfile.open(unfinished, "w") as tar:
        for photo in tqdm(read_photos(data), desc="photographs", unit="pair", disable=None):
            caption = given_caption(photo, recipe.photos.caption)
            _add(tar, photo.file.name, photo.file.read_bytes())
            _add(tar, f"{photo.file.stem}.txt", caption.encode())
    unfinished.replace(folder / f"{SHARD}.tar")


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


@dataclass(frozen=True, slots=True)
class CuratedPhotos:
    """Photographs as the curator gets them, and what other people say of them."""

    embeddings: Embeddings
    vocabulary: Vocabulary
    features: FloatArray
    """(V, 512) unit rows of the vocabulary."""
    truth: Mapping[str, Sequence[str]]
    """Concepts that the captions not given name, by pair id; maybe none."""


def curated_photos(recipe: Recipe, data: Path) -> CuratedPhotos:
    """Read photographs, their given captions, and the truth of the others."""
    photos = read_photos(data)
    given = [given_caption(photo, recipe.photos.caption) for photo in photos]
    vocabulary, features = _vocabulary(data, given, recipe.photos.min_captions)
    ids = [f"{DATASET}/{SHARD}/{photo.file.stem}" for photo in photos]
    embeddings = Embeddings.from_arrays(
        ids,
        given,
        np.stack([photo.feature for photo in photos]),
        caption_features(given, vocabulary, features),
    )
    finder = MentionFinder(vocabulary)
    truth = {
        key: sorted(
            {
                vocabulary.names[concept]
                for place, caption in enumerate(photo.captions)
                if place != recipe.photos.caption
                for concept in finder.find(caption)
            }
        )
        for key, photo in zip(ids, photos, strict=True)
    }
    return CuratedPhotos(embeddings, vocabulary, features, truth)


def _curate(recipe: Recipe, data: Path, folder: Path) -> None:
    """Build the archive from the given captions and judge it by the others."""
    photos = curated_photos(recipe, data)
    photos.vocabulary.save(folder / "vocabulary.txt")
    write_truth(folder, photos.truth)
    quality = curate(
        folder,
        photos.embeddings,
        photos.vocabulary,
        photos.features,
        recipe.archive,
        {key: names for key, names in as_sets(read_truth(folder)).items() if names},
        encoder_id=ENCODER,
        ks=KS,
    )
    write_text(folder / "quality.json", json.dumps(quality, indent=1))


def _vocabulary(
    data: Path, captions: Sequence[str], min_captions: int
) -> tuple[Vocabulary, FloatArray]:
    """Concepts that have a text feature and that enough captions mention, most frequent first."""
    names, rows = read_concepts(data)
    everything = Vocabulary(tuple(names))
    feature = dict(zip(names, rows, strict=True))
    counts: Counter[str] = Counter()
    finder = MentionFinder(everything)
    for caption in captions:
        counts.update(everything.names[concept] for concept in finder.find(caption))
    kept = [name for name, count in counts.most_common() if count >= min_captions]
    if not kept:
        raise RecipeError(f"no concept is in photos.min_captions = {min_captions} captions")
    vocabulary = Vocabulary(tuple(kept))
    return vocabulary, np.stack([feature[name] for name in vocabulary.names])


def caption_features(
    captions: Sequence[str], vocabulary: Vocabulary, features: FloatArray
) -> FloatArray:
    """Stand-in for text features of captions: the mean of the features of what they mention.

    The real ones cannot be had without CLIP's weights. A caption that mentions nothing gets the
    mean of the whole vocabulary.

    Returns:
        (n, D) unit rows.
    """
    finder = MentionFinder(vocabulary)
    rows = [
        features[found].mean(axis=0) if (found := finder.find(caption)) else features.mean(axis=0)
        for caption in captions
    ]
    return _unit(np.stack(rows))


def _read_array(path: Path) -> npt.NDArray[np.floating]:
    """(n, D) numbers of a .npy file, mapped, so that a header cannot ask for memory.

    Raises:
        DataMissingError: it is damaged, an archive of arrays, or holds anything but rows of floats.
    """
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        reason = str(error).partition("\n")[0]
        raise DataMissingError(f"{path}: features cannot be read ({reason})") from error
    if not isinstance(found, np.ndarray):
        found.close()
        raise DataMissingError(f"{path}: must be one array of numpy.save, is an archive of arrays")
    if found.ndim != 2 or found.dtype.kind != "f":
        raise DataMissingError(
            f"{path}: features must be rows of floats, got {found.dtype} of shape {found.shape}"
        )
    return found


def _unit(rows: npt.NDArray[np.floating]) -> FloatArray:
    values = rows.astype(np.float32)
    unit: FloatArray = values / np.linalg.norm(values, axis=1, keepdims=True).clip(1e-12)
    return unit


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as table:
        return list(csv.DictReader(table, delimiter="\t", quoting=csv.QUOTE_NONE))


def check_data(data: Path) -> None:
    """Look for the files that the recipe reads.

    Raises:
        DataMissingError: naming the first that is not there.
    """
    wanted = [
        data / "flickr8k" / "captions_train.tsv",
        data / "flickr8k" / "captions_val.tsv",
        data / "flickr8k" / "images",
        *(
            data / "clip_vitb32_features" / f"{name}{ending}"
            for name in ("flickr8k_image_features", *(f"text_{each}" for each in NAME_LISTS))
            for ending in (".tsv", ".npy")
        ),
    ]
    for path in wanted:
        if not path.exists():
            raise DataMissingError(f"{path}: not found; --data must hold flickr8k and its features")


def data_files(data: Path) -> Mapping[str, int]:
    """Sizes of the tables, so that other data make another fingerprint."""
    files = sorted((data / "clip_vitb32_features").glob("*")) + sorted(
        (data / "flickr8k").glob("*.tsv")
    )
    return {file.name: file.stat().st_size for file in files}
