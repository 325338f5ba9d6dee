"""A concept archive to walk through: pairs by word, the page of a pair, and of a new picture."""

import io
import logging
import re
import tempfile
from collections.abc import Mapping, Sequence
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Literal, NamedTuple

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

MANY = 24
"""Names of concepts that are listed in the note on what an archive knows."""

CARDS = 12
"""Pairs of a page of the list."""

ENLARGED_PX = 224
"""Small pictures are shown enlarged to this, without smoothing."""

DROPPED = "your picture"
"""Key of a picture that a visitor dropped."""

MAX_CAPTION = 300

STYLE = """
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(76px, 1fr)); gap: 8px; }
.cards button { display: flex; flex-direction: column; text-align: left; padding: 6px;
  border-radius: 8px; cursor: pointer;
  border: 1px solid var(--border-color-primary); background: var(--background-fill-primary);
  color: inherit; font: inherit; font-size: 12px; line-height: 1.35; overflow-wrap: anywhere; }
.cards button:hover, .cards button:focus-visible { border-color: var(--color-accent); }
.cards img { width: 100%; aspect-ratio: 1; object-fit: contain; margin: 0 0 6px;
  border-radius: 4px; image-rendering: pixelated; }
.told + .cards { margin-top: 10px; }
.cards .missing { color: var(--body-text-color-subdued); }
.entry { display: block; width: 100%; height: calc(100vh - 372px); min-height: 420px;
  border: 1px solid var(--border-color-primary); border-radius: 8px; }
"""

COMPACT = """
body { padding: 0; background: var(--card); } main { max-width: none; }
article { border: 0; border-radius: 0; margin: 0; padding: 14px 16px; }
header { gap: 16px; margin-bottom: 10px; }
.picture { width: 132px; height: 132px; }
section { grid-template-columns: 180px minmax(0, 1fr); padding: 10px 0; }
.witnesses { gap: 10px; } figure { width: 88px; } .thumb { width: 88px; height: 66px; }
figcaption span { font-size: 11px; white-space: nowrap; }
"""
"""Of an entry in its frame, so that several concepts are seen at once."""


class Found(NamedTuple):
    """What a search came to.

    Attributes:
        keys: of the pairs, in the order of the archive.
        whole: whether they have the words themselves, not only words that begin so.
    """

    keys: Sequence[str]
    whole: bool = True


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
        self._of_scenes = folders.of_scenes
        self._places = {pair.id: pair for pair in pairs}
        found, wanted = self.embeddings.encoder_id, self.archive.manifest["encoder"]
        if found != wanted:
            raise InputError(
                f"the archive was built with {wanted}, the embeddings are of {found}; "
                "run the reproduction to its end"
            )

    def find(self, text: str, where: Where = "captions") -> Found:
        """The pairs that have all words of a text.

        A word counts in singular and plural; where no pair has all words, those count whose words
        begin as the ones that were typed.

        Args:
            text: words, in any order and case; all pairs when it is blank.
            where: in the caption or the key, or among the names of the archive's concepts.
        """
        if not text.strip():
            return Found(self._keys)
        words = _spaced(text).split()
        matches = self._with_concepts if where == "concepts" else self._with_caption
        if whole := matches([_Word(word, whole=True) for word in words]):
            return Found(whole)
        return Found(matches([_Word(word, whole=False) for word in words]), whole=False)

    def _with_caption(self, words: Sequence["_Word"]) -> list[str]:
        return [
            key
            for key, told in zip(self._keys, self._texts, strict=True)
            if words and all(word.is_in(told) for word in words)
        ]

    def _with_concepts(self, words: Sequence["_Word"]) -> list[str]:
        """Keys of pairs of which each word is in the name of some concept."""
        batch = self.archive.batch(self._keys)
        names = [_spaced(name) for name in self.archive.vocabulary.names]
        fits = [np.array([word.is_in(name) for name in names]) for word in words]  # of (V,)
        owners = np.repeat(np.arange(len(self._keys)), np.diff(batch.offsets))  # (c,)
        held = [
            np.bincount(owners, fit[batch.concepts], minlength=len(self._keys)) > 0 for fit in fits
        ]  # of (n,)
        return [self._keys[row] for row in np.flatnonzero(np.all(held, axis=0))] if held else []

    @cached_property
    def _keys(self) -> list[str]:
        return list(self.archive.keys)

    @cached_property
    def _texts(self) -> list[str]:
        """Captions and keys, see `_spaced`."""
        return [_spaced(f"{self.archive.caption(key)} {key}") for key in self._keys]

    @property
    def knows(self) -> str:
        """What the archive can say at all, in two sentences."""
        names = sorted(self.archive.vocabulary.names)
        more = f" and {len(names) - MANY} more" if len(names) > MANY else ""
        scenes = "procedural scenes" if self._of_scenes else "pictures"
        return (
            f"This archive knows {len(names)} concepts, from captions of {len(self.archive):,} "
            f"{scenes}: {', '.join(names[:MANY])}{more}. "
            "Any picture gets the nearest of them, whatever it shows: the best bar is always full, "
            "and a score is no probability."
        )

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
    page = page.replace("</head>", f"<style>{COMPACT}</style></head>", 1)
    return f'<iframe class="entry" sandbox title="archive entry" srcdoc="{escape(page)}"></iframe>'


class _Word(NamedTuple):
    """A word that is looked for."""

    text: str
    whole: bool

    def is_in(self, spaced: str) -> bool:
        """Whether a text of `_spaced` has it, in singular or plural, or a word that begins so."""
        if not self.whole:
            return f" {self.text}" in spaced
        endings = ("", "s", "es") if len(self.text) > 2 else ("",)  # "as" is no plural of "a"
        return any(f" {self.text}{ending} " in spaced for ending in endings)


def _spaced(text: str) -> str:
    """The words of a text in small letters, a space before and after each."""
    return " ".join(["", *re.findall(r"[^\W_]+", text.lower()), ""])


def _as_png(photo: Photo) -> bytes:
    """A picture as a file; a small one enlarged without smoothing."""
    image = Image.fromarray(photo)
    if is_small(photo):
        times = max(ENLARGED_PX // max(image.size), 1)
        image = image.resize((times * image.width, times * image.height), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
