"""What happens when a visitor does something: plain values in, HTML out, never an exception.

What can be mended is told in one line where the result would be; the page only wires this.
"""

import io
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import NamedTuple

from PIL import Image

from integration.demo.archive import CARDS, ArchiveView, Where, framed
from integration.demo.drawing import draw_labels, draw_maps, draw_note, draw_photo
from integration.demo.errors import InputError
from integration.demo.models import Models
from integration.demo.picture import UNREADABLE, Photo, check_bytes, read_picture
from integration.demo.runs import COCU, CURATED, ArchiveFolders, how_to_make
from integration.demo.words import advise, parse_words
from segbench import ScenesDataset

SCENES = 1000
"""Different scenes that are drawn, before they begin again."""


class Listing(NamedTuple):
    """Pairs that were found, and which of them are shown.

    Attributes:
        keys: of all of them.
        start: the first that is shown.
        note: how they were found, if not as one would expect.
    """

    keys: Sequence[str] = ()
    start: int = 0
    note: str = ""

    @property
    def shown(self) -> Sequence[str]:
        """Keys on this page of the list."""
        return self.keys[self.start : self.start + CARDS]

    def moved(self, pages: int) -> "Listing":
        """Another page of the list, or this one at either end."""
        start = self.start + pages * CARDS
        return self._replace(start=start) if 0 <= start < len(self.keys) else self


class Desk:
    """Serves visitors.

    Args:
        models: to segment with.
        archive: where an archive is; None when there is none.
        scenes: pictures to try.
        of_scenes: names of the models that have learnt from such pictures alone.
    """

    def __init__(
        self,
        models: Models,
        archive: ArchiveFolders | None,
        scenes: ScenesDataset,
        of_scenes: Sequence[str] = (),
    ) -> None:
        self.models = models
        self.scenes = scenes
        self._folders = archive
        self._of_scenes = of_scenes

    @property
    def choices(self) -> list[tuple[str, str]]:
        """What is shown of each model, and its name."""
        folders = self.models.folders
        return [
            (name if made else f"{name} (not made yet)", name) for name, made in folders.items()
        ]

    @property
    def first_choice(self) -> str:
        """The model to begin with: CoCu, or else one that is there."""
        made = [name for name, folder in self.models.folders.items() if folder]
        return CURATED if CURATED in made or not made else made[0]

    @property
    def missing(self) -> str:
        """How to make the models that are not there; empty when all are."""
        ways: dict[str, list[str]] = {}
        for name, folder in self.models.folders.items():
            if folder is None:
                ways.setdefault(how_to_make(name), []).append(name)
        return "; ".join(f"for {_listed(names)} {way}" for way, names in ways.items())

    @property
    def limits(self) -> str:
        """What the models do not know, as HTML; empty when nothing is to be said."""
        if not self._of_scenes:
            return ""
        return draw_note(
            f"{_listed(self._of_scenes)} learnt from small procedural scenes alone: what they say "
            "of a photograph means nothing. Draw a scene to see what they know.",
            kind="limits",
        )

    def segment(
        self, data: bytes | None, words: str, model: str, threshold: float
    ) -> tuple[str, str]:
        """Segment a picture by words.

        Args:
            data: a picture's file; None when there is none yet.
            words: as typed, see `parse_words`.
            model: a name of `Models`.
            threshold: of the background, in [0, 1].

        Returns:
            The picture with its classes, and where each part of the model looks.
        """
        try:
            photo = read_picture(data)
        except InputError as error:
            return draw_note(str(error), kind="wrong"), ""
        try:
            return self._segmented(photo, words, model, threshold)
        except InputError as error:
            return draw_note(str(error), kind="wrong") + draw_photo(photo), ""

    def _segmented(self, photo: Photo, words: str, model: str, threshold: float) -> tuple[str, str]:
        """See `segment`.

        Raises:
            InputError: words, model or threshold cannot be used.
        """
        classes = parse_words(words)
        if not 0 <= threshold <= 1:
            raise InputError(f"the background threshold is in [0, 1], got {threshold}")
        seen = self.models.get(model).look(photo, classes, threshold)
        names = [synonyms[0] for synonyms in classes]
        advice = advise(classes)
        note = draw_note(advice, kind="limits") if advice else ""
        overlay = draw_labels(photo, seen, names, background=threshold > 0)
        return note + overlay, draw_maps(photo, seen.maps)

    def refuse(self, size: int) -> str:
        """What is said of a file that the browser did not send, for its size or its name.

        Args:
            size: bytes.
        """

        def refused() -> str:
            check_bytes(size)
            raise InputError(UNREADABLE)

        return _told(refused)

    def scene(self, number: int) -> bytes:
        """A procedural picture to try, as a PNG file; the models of a mini run know no other."""
        buffer = io.BytesIO()
        Image.fromarray(self.scenes[number % SCENES].image).save(buffer, "PNG")
        return buffer.getvalue()

    @property
    def words(self) -> str:
        """Words to begin with: what is in scenes."""
        return ", ".join(self.scenes.names)

    def find(self, text: str, where: Where) -> Listing:
        """Pairs with all words of a text, from the first; none while there is no archive."""
        try:
            found = self._view.find(text, where)
        except InputError:
            return Listing()  # the list itself says what is missing
        typed = " ".join(text.split())
        begun = f"no {where[:-1]} has {typed!r} as it is; these have words that begin so"
        return Listing(found.keys, note="" if found.whole or not found.keys else begun)

    def list(self, listing: Listing) -> tuple[str, str]:
        """What is shown of a listing, and how much there is."""
        last = min(listing.start + CARDS, len(listing.keys))
        span = f"{listing.start + 1} to {last} of {len(listing.keys):,} pairs"
        note = draw_note(listing.note) if listing.note else ""
        cards = _told(lambda: note + self._view.cards(listing.shown))
        return cards, span if listing.keys else ""

    def about(self) -> str:
        """What the archive knows, as HTML; empty while there is none."""
        try:
            return draw_note(self._view.knows, kind="limits")
        except InputError:
            return ""  # the list says what is missing

    def entry(self, listing: Listing, row: int) -> str:
        """The page of a pair on the list, by its place there."""

        def page() -> str:
            if not 0 <= row < len(listing.shown):
                raise InputError("there is no such pair on the list; choose another")
            return framed(self._view.page(listing.shown[row]))

        return _told(page)

    def judge(self, data: bytes | None, caption: str) -> str:
        """What the archive would say of a new picture."""
        return _told(lambda: framed(self._view.judge(read_picture(data), caption)))

    @cached_property
    def _view(self) -> ArchiveView:
        if self._folders is None:
            raise InputError(f"there is no archive yet; run `{COCU}`, then start this page again")
        return ArchiveView(self._folders)


def _told(work: Callable[[], str]) -> str:
    """The result, or what a visitor has to mend."""
    try:
        return work()
    except InputError as error:
        return draw_note(str(error), kind="wrong")


def _listed(names: Sequence[str]) -> str:
    """Names as a sentence has them."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
