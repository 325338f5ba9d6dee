"""A concept archive to walk through: pairs by word, the page of a pair, and of a new picture."""

import io
import logging
import tempfile
from collections.abc import Mapping, Sequence
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from conceptarchive import (
    ConceptArchive,
    ConceptArchiveError,
    Embeddings,
    OpenClipEncoder,
    build_archive,
    find_shards,
    write_page,
)
from groupvit import GroupViTError, index_shards
from integration.demo.errors import InputError
from integration.demo.picture import Photo, data_uri, is_small, read_picture
from integration.demo.runs import ArchiveFolders
from integration.wiring import DATASET, best_device

log = logging.getLogger(__name__)

Where = Literal["captions", "concepts"]
"""What a search looks at."""

CARDS = 12
"""Pairs of a page of the list."""

ENLARGED_PX = 224
"""Small pictures are shown enlarged to this, without smoothing."""

DROPPED = "your picture"
"""Key of a picture that a visitor dropped."""

MAX_CAPTION = 300

STYLE = """
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(118px, 1fr)); gap: 10px; }
.cards button { display: flex; flex-direction: column; text-align: left; padding: 6px;
  border-radius: 8px; cursor: pointer;
  border: 1px solid var(--border-color-primary); background: var(--background-fill-primary);
  color: inherit; font: inherit; font-size: 12px; line-height: 1.35; overflow-wrap: anywhere; }
.cards button:hover, .cards button:focus-visible { border-color: var(--color-accent); }
.cards img { width: 100%; aspect-ratio: 1; object-fit: contain; margin: 0 0 6px;
  border-radius: 4px; image-rendering: pixelated; }
.cards .missing { color: var(--body-text-color-subdued); }
.entry { width: 100%; height: 82vh; min-height: 520px; position: sticky; top: 8px; border: 1px solid
  var(--border-color-primary); border-radius: 8px; }
"""


class ArchiveView:
    """An archive with the pictures, embeddings and encoder that belong to it.

    Args:
        folders: stages of one run.

    Raises:
        InputError: they cannot be read, or are not of one run.
    """

    def __init__(self, folders: ArchiveFolders) -> None:
        try:
            self.archive = ConceptArchive.open(folders.archive)
            self.embeddings = Embeddings.open(folders.embedded)
            pairs, _ = index_shards(find_shards(folders.pairs), dataset=DATASET)
        except (ConceptArchiveError, GroupViTError) as error:
            raise InputError(f"the archive cannot be shown: {error}") from error
        self._clip = folders.clip
        self._places = {pair.id: pair for pair in pairs}
        found, wanted = self.embeddings.encoder_id, self.archive.manifest["encoder"]
        if found != wanted:
            raise InputError(
                f"the archive was built with {wanted}, the embeddings are of {found}; "
                "run the reproduction to its end"
            )

    def find(self, text: str, where: Where = "captions") -> list[str]:
        """Keys of the pairs that have all words of a text, in the order of the archive.

        Args:
            text: words, in any order and case; all pairs when it is blank.
            where: in the caption or the key, or among the names of the archive's concepts.
        """
        words = text.lower().split()
        if not words:
            return list(self.archive.keys)
        return self._with_concepts(words) if where == "concepts" else self._with_caption(words)

    def _with_caption(self, words: Sequence[str]) -> list[str]:
        return [
            key
            for key, told in zip(self._keys, self._texts, strict=True)
            if all(word in told for word in words)
        ]

    def _with_concepts(self, words: Sequence[str]) -> list[str]:
        """Keys of pairs of which each word is in the name of some concept."""
        batch = self.archive.batch(self._keys)
        names = self.archive.vocabulary.names
        fits = [np.array([word in name.lower() for name in names]) for word in words]  # of (V,)
        owners = np.repeat(np.arange(len(self._keys)), np.diff(batch.offsets))  # (c,)
        held = [
            np.bincount(owners, fit[batch.concepts], minlength=len(self._keys)) > 0 for fit in fits
        ]  # of (n,)
        return [self._keys[row] for row in np.flatnonzero(np.all(held, axis=0))]

    @cached_property
    def _keys(self) -> list[str]:
        return list(self.archive.keys)

    @cached_property
    def _texts(self) -> list[str]:
        """Captions and keys in small letters."""
        return [f"{self.archive.caption(key)} {key}".lower() for key in self._keys]

    def cards(self, keys: Sequence[str]) -> str:
        """Pairs to choose from, as HTML: `data-row` of each is its place among the keys."""
        if not keys:
            return '<p class="missing">no pair has these words</p>'
        cards = "".join(self._card(row, key) for row, key in enumerate(keys))
        return f'<div class="cards">{cards}</div>'

    def _card(self, row: int, key: str) -> str:
        photo = self._photo(key)
        picture = (
            "no picture"
            if photo is None
            else f'<img src="{data_uri(photo, exact=is_small(photo))}" alt="">'
        )
        caption = self.archive.caption(key) or "(no caption)"
        return f'<button type="button" data-row="{row}">{picture}{escape(caption)}</button>'

    def page(self, key: str) -> str:
        """A whole HTML page of one pair: caption, ranked concepts, clusters, witnesses.

        Raises:
            InputError: no such pair.
        """
        if key not in self.archive:
            raise InputError("there is no such pair in the archive; choose one from the list")
        return self._page(self.archive, key, {})

    def judge(self, photo: Photo, caption: str = "") -> str:
        """The same page of a new picture: an archive of it alone, in the same pool.

        Args:
            photo: (H, W, 3) uint8 RGB.
            caption: what one might have said of it; its concepts count as they would have.

        Raises:
            InputError: too long a caption.
        """
        if len(caption) > MAX_CAPTION:
            raise InputError(f"a caption has at most {MAX_CAPTION} letters, got {len(caption)}")
        caption = " ".join(caption.split())
        image = self.encoder.encode_images([Image.fromarray(photo)]).numpy()  # (1, D)
        text = self.encoder.encode_texts([caption]).numpy()  # (1, D)
        anchor = Embeddings.from_arrays([DROPPED], [caption], image, text)
        with tempfile.TemporaryDirectory() as folder:
            made = build_archive(
                Path(folder) / "archive",
                anchors=anchor,
                pool=self.embeddings,
                vocabulary=self.archive.vocabulary,
                concept_features=self._features,
                config=self.archive.config,
                encoder_id=self.encoder.id,
            )
            return self._page(made, DROPPED, {DROPPED: photo})

    @cached_property
    def encoder(self) -> OpenClipEncoder:
        """The CLIP that the archive was built with.

        Raises:
            InputError: it cannot be loaded, or is another one.
        """
        try:
            encoder = OpenClipEncoder(f"local-dir:{self._clip}", device=str(best_device()))
        except ConceptArchiveError as error:
            raise InputError(f"the archive's CLIP cannot be loaded: {error}") from error
        if encoder.id != self.archive.manifest["encoder"]:
            raise InputError(
                f"the archive was built with {self.archive.manifest['encoder']}, the CLIP that is "
                f"there is {encoder.id}; run the reproduction to its end"
            )
        return encoder

    @cached_property
    def _features(self) -> npt.NDArray[np.float32]:
        """(V, D) unit rows of the vocabulary."""
        rows: npt.NDArray[np.float32] = self.encoder.encode_texts(
            self.archive.vocabulary.prompts()
        ).numpy()
        return rows

    def _page(self, archive: ConceptArchive, key: str, own: Mapping[str, Photo]) -> str:
        """A whole HTML page, with pictures of our own or of the shards."""

        def image(wanted: str) -> bytes | None:
            photo = own.get(wanted)
            photo = self._photo(wanted) if photo is None else photo
            return None if photo is None else _as_png(photo)

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "page.html"
            write_page(archive, [key], path, images=image)
            return path.read_text(encoding="utf-8")

    def _photo(self, key: str) -> Photo | None:
        """The picture of a pair; None when there is none that can be shown."""
        place = self._places.get(key)
        if place is None:
            return None
        try:
            return read_picture(place.read()[0])
        except (InputError, GroupViTError) as error:
            log.warning("%s: is shown without its picture: %s", key, error)
            return None


def framed(page: str) -> str:
    """A whole page inside another one: without scripts, forms or an origin."""
    return f'<iframe class="entry" sandbox title="archive entry" srcdoc="{escape(page)}"></iframe>'


def _as_png(photo: Photo) -> bytes:
    """A picture as a file; a small one enlarged without smoothing."""
    image = Image.fromarray(photo)
    if is_small(photo):
        times = max(ENLARGED_PX // max(image.size), 1)
        image = image.resize((times * image.width, times * image.height), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
