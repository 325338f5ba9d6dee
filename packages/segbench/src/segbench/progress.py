"""Progress of long work: a bar on a terminal, a line now and then where there is none."""

import sys
from collections.abc import Iterable
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")

LINE_S = 30.0
"""Seconds between two lines; work that takes less writes none."""


class _Lines:
    """Standard error of which nothing can be taken back: every state of a bar is a line."""

    def write(self, text: str) -> None:
        if state := text.strip():
            sys.stderr.write(f"{state}\n")

    def flush(self) -> None:
        sys.stderr.flush()


def progress(steps: Iterable[T] | None = None, *, shown: bool = True, **about: Any) -> "tqdm[T]":
    """Walk over steps and say how far it is: count, rate and time left, on standard error.

    Args:
        steps: what is walked over; without, the bar is told by `update`.
        shown: whether this process, of several, says anything.
        **about: further arguments of `tqdm.tqdm`, such as total, desc and unit.
    """
    if not shown:
        return tqdm(steps, disable=True, **about)
    if sys.stderr.isatty():
        return tqdm(steps, **about)
    return tqdm(steps, file=_Lines(), delay=LINE_S, mininterval=LINE_S, miniters=1, **about)
