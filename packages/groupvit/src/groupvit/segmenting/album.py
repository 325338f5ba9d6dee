"""Many photographs, one after the other: segment each and write what was asked for."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from groupvit.segmenting.outputs import Job, save_picture
from groupvit.segmenting.overlay import draw_groups, draw_overlay, label_picture, shares
from groupvit.segmenting.photo import read_photos
from groupvit.segmenting.segmenter import GroupViTSegmenter
from groupvit.segmenting.windows import Photo

HELD = 4
"""Photographs in memory at once; their windows are seen together."""

BACKGROUND_NAME = "background"


def segment_photos(
    segmenter: GroupViTSegmenter,
    jobs: Sequence[Job],
    names: Sequence[str],
    *,
    background: float | None = None,
    window_px: int | None = 448,
    short_px: int = 448,
) -> Iterator[tuple[Path, dict[str, float]]]:
    """Segment photographs and write their pictures.

    Args:
        segmenter: the model.
        jobs: what to read and to write.
        names: of the classes, all different.
        background: threshold of `GroupViTSegmenter.label`.
        window_px: side of a window, half of which is the stride; None takes photographs whole.
        short_px: short side that photographs are resized to.

    Yields:
        Every photograph when its files are there, with the share of its pixels by name; with a
        background that comes first.

    Raises:
        DataError: when all others are done: photographs that could not be read.
        GroupViTError: a file cannot be written.
    """
    bank = segmenter.encode_classes(names)
    names = names if background is None else [BACKGROUND_NAME, *names]
    job_of = {job.photo: job for job in jobs}
    stride_px = 1 if window_px is None else max(window_px // 2, 1)
    for some in read_photos(list(job_of), batch=HELD):
        labelled = segmenter.label_batch(
            (photo for _, photo in some),
            bank,
            background=background,
            window_px=window_px,
            stride_px=stride_px,
            short_px=short_px,
        )
        for (path, photo), labels in zip(some, labelled, strict=True):
            found = labels.cpu().numpy()  # (H, W)
            job = job_of[path]
            _write(job, photo, found, names, background=background is not None)
            if job.groups is not None:
                maps = segmenter.group_maps(photo, short_px=short_px)
                save_picture(draw_groups(photo, [m.cpu().numpy() for m in maps]), job.groups)
            yield path, dict(zip(names, shares(found, len(names)).tolist(), strict=True))


def _write(
    job: Job,
    photo: Photo,
    labels: npt.NDArray[np.int32],
    names: Sequence[str],
    *,
    background: bool,
) -> None:
    """The overlay of a photograph, and its labels if they are wanted."""
    save_picture(draw_overlay(photo, labels, names, background=background), job.overlay)
    if job.labels is not None:
        save_picture(label_picture(labels, len(names), background=background), job.labels)
