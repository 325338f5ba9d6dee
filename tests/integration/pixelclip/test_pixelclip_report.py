"""What a report of PixelCLIP says first."""

from types import SimpleNamespace
from typing import Any

import pytest

from integration.pixelclip.report import Outcome, headline

MODEL = SimpleNamespace(last_block="pixelclip")
ARM = SimpleNamespace(train=SimpleNamespace(model=MODEL))
RECIPE: Any = SimpleNamespace(arms={"pixelclip": ARM}, chosen=["pixelclip"])


def said(**gains: list[float]) -> str:
    """The headline of arms with such gains over a CLIP of mIoU 0.5."""
    count = len(next(iter(gains.values())))
    untuned = {"pixelclip": {"miou": [0.5] * count}}
    metrics = {arm: {"miou": [0.5 + gain for gain in each]} for arm, each in gains.items()}
    outcome = Outcome(untuned=untuned, metrics=metrics, gains=gains, clusters={}, seconds={})
    return headline(RECIPE, outcome, 0.021, 300)


def test_scores_stand_beside_chance() -> None:
    assert said(pixelclip=[0.25]).startswith(
        "mIoU over 300 pictures (0 to 1, higher is better): un-tuned CLIP (pixelclip) 0.500, "
        "pixelclip 0.750; labels drawn at random would have 0.021."
    )


def test_one_seed_has_no_verdict() -> None:
    assert said(pixelclip=[0.25]).endswith("One seed says little: how far others lie from it is "
                                           "not known (--seeds 3 tells).")  # fmt: skip


@pytest.mark.parametrize(
    ("gains", "told"),
    [
        # 0.15 ± 0.05, -0.15 ± 0.05 and 0.1 ± 0.2
        ({"a": [0.1, 0.2], "b": [-0.1, -0.2]}, "above: a; below: b."),
        ({"a": [0.3, -0.1], "b": [-0.3, 0.1]}, "neither: a, b."),
    ],
)
def test_gains_are_judged_by_their_standard_error(gains: dict[str, list[float]], told: str) -> None:
    assert said(**gains).endswith(f"by more than twice the standard error: {told}")
