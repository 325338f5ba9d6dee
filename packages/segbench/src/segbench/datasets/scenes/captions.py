"""Captions with the semantic gap: things are named, stuff is left out, some captions are wrong.

The rates are those of `CaptionRates`. A caption speaks of what covers enough of the picture; it is
drawn from the layout alone, so it is the same at every size.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from segbench.datasets.scenes.world import STUFF_BY_NAME, THINGS

NUMBERS = {2: "two", 3: "three", 4: "four"}
ADJECTIVES = ("small", "big", "old", "lovely", "bright", "colourful", "lonely", "little")
OPENINGS = (
    "", "", "", "a photo of ", "a picture of ", "a view of ", "here we see ", "my favourite shot: ",
    "this is ", "look at ", "close up of ",
)  # fmt: skip
ENDINGS = (
    "", "", "", " in the morning", " on a sunny day", " last summer", " during our holiday",
    " at noon", ", taken by a friend", " in perfect light", " on a quiet day",
)  # fmt: skip
EMPTY_OF_THINGS = (
    "a beautiful day",
    "what a view",
    "our holiday",
    "a quiet morning",
    "so peaceful",
)
WHERE = {"sky": "under the {}", "forest": "near the {}", "mountain": "in front of the {}"}
PLURAL = {thing.name: thing.plural for thing in THINGS}


@dataclass(frozen=True, kw_only=True, slots=True)
class CaptionRates:
    """How complete captions are."""

    thing: float = 0.92
    """Probability that a kind of thing is named."""
    stuff: float = 0.10
    """Probability that a kind of stuff is named."""
    wrong: float = 0.06
    """Probability that the caption belongs to another scene."""
    empty: float = 0.02
    """Probability that the caption is empty."""


def write_caption(
    rng: np.random.Generator, things: Counter[str], stuff: list[str], rates: CaptionRates
) -> str:
    """Write a sentence about a scene.

    Args:
        rng: the caption's stream.
        things: visible things with their numbers.
        stuff: visible stuff.
        rates: how complete the sentence is.

    Returns:
        The caption; empty with probability `rates.empty`. Wrong captions are the caller's business.
    """
    if rng.random() < rates.empty:
        return ""
    named = [_count(rng, name, number) for name, number in sorted(things.items())
             if rng.random() < rates.thing]  # fmt: skip
    places = [name for name in sorted(stuff) if rng.random() < rates.stuff]
    rng.shuffle(named)
    subject = _join(named) if named else _choose(rng, EMPTY_OF_THINGS)
    where = "".join(" " + WHERE.get(name, "on the {}").format(name) for name in places[:2])
    return _choose(rng, OPENINGS) + subject + where + _choose(rng, ENDINGS)


def named_classes(caption: str) -> set[str]:
    """Class names that a caption of this world mentions, singular or plural."""
    words = set(caption.replace(",", " ").replace(":", " ").split())
    singular = {thing.name for thing in THINGS if words & {thing.name, thing.plural}}
    return singular | (words & set(STUFF_BY_NAME))


def _count(rng: np.random.Generator, name: str, number: int) -> str:
    adjective = _choose(rng, ADJECTIVES) + " " if rng.random() < 0.35 else ""
    if number == 1:
        article = "an" if (adjective or name)[0] in "aeiou" else "a"
        return f"{article} {adjective}{name}"
    return f"{NUMBERS[number]} {adjective}{PLURAL[name]}"


def _join(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def _choose(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[int(rng.integers(len(options)))]
