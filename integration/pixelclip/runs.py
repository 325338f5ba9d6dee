"""What the stages of a PixelCLIP run work on, and what they leave."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from integration.checksums import checksum, checksums
from integration.pixelclip.recipe import Source
from integration.stage import Stage
from integration.wiring import LOCAL
from segbench import Task


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipFiles:
    """A CLIP model as maskcluster loads it."""

    architecture: str
    """A name of open_clip, or `local-dir:FOLDER`."""

    pretrained: str
    """A tag, a file, `random`, or "" for a folder."""

    folder: Path | None = None
    """Of a CLIP that was trained in the run."""

    inputs: tuple[Stage, ...] = ()
    """The stage that trained it."""

    seed: int = 0
    """Of random weights."""

    @property
    def beside_a_run(self) -> str:
        """The architecture as a training of the same results names it: both move together."""
        return f"{LOCAL}../{self.folder.name}" if self.folder else self.architecture

    @property
    def name(self) -> str:
        """What it is, wherever it lies: for the fingerprint of stages."""
        if self.inputs:
            return "trained here"
        drawn = f" {self.seed}" if self.pretrained == "random" else ""
        return f"{_content(self.architecture)} {_content(self.pretrained)}{drawn}"


def _content(given: str) -> str:
    """A name or a tag as it is; a file or a `local-dir:FOLDER` by what is in it."""
    path = Path(given.removeprefix(LOCAL))
    if given.startswith(LOCAL) and path.is_dir():
        return json.dumps(checksums(path))
    return checksum(path) if given and path.is_file() else given


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """Pictures, their masks, and what is scored."""

    stages: tuple[Stage, ...]
    """What has to run first."""

    images: Path
    """Folder of pictures."""

    masks: Path
    """Folder of SA-1B's JSON: the pictures' own masks."""

    task: Task
    """What is scored."""

    data: Path | None
    """Root of the task's data."""

    clip: Callable[[int], ClipFiles]
    """The CLIP of a seed."""

    names: tuple[str, ...]
    """Classes that clusters are named after."""

    inputs: tuple[Stage, ...] = ()
    """The stages that made pictures and masks."""

    captions: Path | None = None
    """Shards of captioned pictures that words come from; None where there are none."""

    files: str = ""
    """Fingerprint of pictures and masks that no stage made."""

    scored: str = ""
    """Fingerprint of the files that are scored; empty where they are drawn."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Runs:
    """The stages that a report is made of."""

    untuned: dict[int, Stage]
    """Scores of the un-tuned CLIP, by seed."""

    trained: dict[tuple[str, int], Stage]
    """Training runs, by arm and seed."""

    scored: dict[tuple[str, int], Stage]
    """Their scores."""

    named: dict[str, Stage]
    """Clusters and their names, by arm, of the first seed."""

    masks: dict[Source, Stage]
    """Masks that were made, by source, of the first seed."""

    words: dict[str, Stage]
    """Words that prompts start from, by kind, of the first seed."""
