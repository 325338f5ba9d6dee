"""Pair sets of the papers: what a published run had of them, and where they come from."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True, kw_only=True, slots=True)
class PairSet:
    """A set of image-caption pairs, in a folder of its name."""

    name: str
    """Of the folder below --data, and first part of the ids of its pairs."""
    title: str
    """What the papers call it."""
    pairs: Mapping[str, int]
    """Pairs of a published run, by paper."""
    get: str
    """How to get it; ROOT stands for the data folder."""


def _read() -> dict[str, PairSet]:
    text = (files("integration.papers") / "datasets.toml").read_text(encoding="utf-8")
    return {name: PairSet(name=name, **values) for name, values in tomllib.loads(text).items()}


PAIR_SETS: Mapping[str, PairSet] = _read()
"""By name."""
