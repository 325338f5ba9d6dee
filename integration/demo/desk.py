"""What happens when a visitor does something: plain values in, HTML out, never an exception.

What can be mended is told in one line where the result would be; the page only wires this.
"""

import io
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import NamedTuple

from PIL import Image

from integration.demo.archive import CARDS, ArchiveView, Where, framed
from integration.demo.drawing import draw_labels, draw_maps, draw_note
from integration.demo.errors import InputError
from integration.demo.models import Models
from integration.demo.picture import read_picture
from integration.demo.runs import COCU, ArchiveFolders
from integration.demo.words import parse_words
from segbench import ScenesDataset

SCENES = 1000
"""Different scenes that are drawn, before they begin again."""


class Listing(NamedTuple):
    """Pairs that were found, and which of them are shown.

    Attributes:
        keys: of all of them.
        start: the first that is shown.
    """

    keys: Sequence[str] = ()
    start: int = 0

    @property
    def shown(self) -> Sequence[str]:
        """Keys on this page of the list."""
        return self.keys[self.start : self.start + CARDS]

    def moved(self, pages: int) -> "Listing":
        """Another page of the list, or this one at either end."""
        start = self.start + pages * CARDS
        return Listing(self.keys, start) if 0 <= start < len(self.keys) else self


class Desk:
    """Serves visitors.

    Args:
        models: to segment with.
        archive: where an archive is; None when there is none.
        scenes: pictures to try.
    """

    def __init__(
        self, models: Models, archive: ArchiveFolders | None, scenes: ScenesDataset
    ) -> None:
        self.models = models
        self.scenes = scenes
        self._folders = archive

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
            photo, classes = read_picture(data), parse_words(words)
            if not 0 <= threshold <= 1:
                raise InputError(f"the background threshold is in [0, 1], got {threshold}")
            seen = self.models.get(model).look(photo, classes, threshold)
        except InputError as error:
            return draw_note(str(error), wrong=True), ""
        names = [synonyms[0] for synonyms in classes]
        return draw_labels(photo, seen, names), draw_maps(photo, seen.maps)

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
            return Listing(self._view.find(text, where))
        except InputError:
            return Listing()  # the list itself says what is missing

    def list(self, listing: Listing) -> tuple[str, str]:
        """What is shown of a listing, and how much there is."""
        last = min(listing.start + CARDS, len(listing.keys))
        span = f"{listing.start + 1} to {last} of {len(listing.keys)} pairs"
        cards = _told(lambda: self._view.cards(listing.shown))
        return cards, span if listing.keys else ""

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
            raise InputError(f"there is no archive yet; make one with: {COCU}")
        return ArchiveView(self._folders)


def _told(work: Callable[[], str]) -> str:
    """The result, or what a visitor has to mend."""
    try:
        return work()
    except InputError as error:
        return draw_note(str(error), wrong=True)
