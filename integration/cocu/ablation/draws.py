"""What a trainer draws from an archive: how much of it is right, and how much is new."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from conceptarchive import ConceptSampler
from integration.results import Spread, spread

EPOCHS = 5

Names = Mapping[str, AbstractSet[str]]


@dataclass(frozen=True, slots=True)
class DrawQuality:
    """Means over pairs of what is drawn in some epochs, with standard errors.

    Attributes:
        right: share of the `count` places that hold a concept which the image shows.
        new: share of the places that hold one which the image shows and its caption leaves out.
        reach: share of the concepts that a caption leaves out which are drawn in any epoch; over
            the pairs that miss one.
    """

    right: Spread
    new: Spread
    reach: Spread


def draw_quality(
    source: ConceptSampler,
    mentioned: Names,
    truth: Names,
    *,
    count: int,
    epochs: int = EPOCHS,
    seed: int = 0,
) -> DrawQuality:
    """Draw as a trainer does, and compare with what images show.

    A place that stays empty, because a pair has fewer concepts, holds nothing right.

    Args:
        source: of concepts.
        mentioned: concepts that each pair's caption names; without an entry, none.
        truth: concepts that each image shows; only these pairs are drawn for.
        count: concepts drawn of a pair in an epoch.
        epochs: how many are drawn.
        seed: of the draws.

    Raises:
        ValueError: `truth` is empty.
        KeyError: a pair that the source does not know.
    """
    if not truth:
        raise ValueError("needs pairs whose truth is known, got none")
    keys = sorted(truth)
    rounds = [
        source.sample_batch(keys, count=count, seed=seed, epoch=epoch) for epoch in range(epochs)
    ]
    right, new, reach = [], [], []
    for key, *drawn in zip(keys, *rounds, strict=True):
        names = [name for epoch in drawn for name in epoch]
        missing = truth[key] - mentioned.get(key, frozenset())
        right.append(sum(name in truth[key] for name in names) / (count * epochs))
        new.append(sum(name in missing for name in names) / (count * epochs))
        if missing:
            reach.append(len(missing & set(names)) / len(missing))
    return DrawQuality(spread(right), spread(new), spread(reach or [0.0]))
