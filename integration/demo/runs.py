"""Which results of finished runs the page can show, and the commands that make the others."""

import re
from dataclasses import dataclass
from pathlib import Path

from integration.errors import DataMissingError
from integration.wiring import TRUTH

COCU = "hatch run reproduce cocu"
PIXELCLIP = "hatch run reproduce pixelclip"
"""Commands that make what is missing."""

DONE = "stage.json"
"""What a stage writes last; see `integration.stage`."""

BASELINE, CURATED, TUNED, PLAIN = "baseline", "CoCu", "PixelCLIP", "plain CLIP"
MODELS = (BASELINE, CURATED, TUNED, PLAIN)
"""What a visitor chooses from."""


@dataclass(frozen=True, slots=True)
class ArchiveFolders:
    """Stages that a concept archive is shown from, all finished."""

    archive: Path
    pairs: Path
    clip: Path
    embedded: Path

    @property
    def of_scenes(self) -> bool:
        """Whether the pairs are procedural scenes: they alone have their truth beside them."""
        return (self.pairs / TRUTH).is_file()


def newest_stage(out: Path, name: str) -> Path | None:
    """The folder of the stage of a name that was finished last; None when none was.

    Args:
        out: root of a run.
        name: of the stage, without its seed if it has one.
    """
    pattern = re.escape(name) + r"(-\d+)?-[0-9a-f]{10}"
    folders = [path for path in (out / "stages").glob("*") if re.fullmatch(pattern, path.name)]
    done = [folder for folder in folders if (folder / DONE).is_file()]
    return max(done, key=lambda folder: (folder / DONE).stat().st_mtime_ns, default=None)


def model_folders(cocu: Path, pixelclip: Path) -> dict[str, Path | None]:
    """Where each of `MODELS` is; None where no run has made it.

    Args:
        cocu: root of a run of `reproduce cocu`.
        pixelclip: root of a run of `reproduce pixelclip`.
    """
    tuned = newest_stage(pixelclip, "train-pixelclip")
    seed = None if tuned is None else re.search(r"-\d+(?=-[0-9a-f]{10}$)", tuned.name)
    return {
        BASELINE: newest_stage(cocu, "train-baseline"),
        CURATED: newest_stage(cocu, "train-cocu"),
        TUNED: tuned,
        PLAIN: newest_stage(pixelclip, "clip" + (seed[0] if seed else "")),  # what was tuned
    }


def archive_folders(cocu: Path) -> ArchiveFolders | None:
    """Where an archive and what belongs to it is; None where a run has not made all of it."""
    found = [newest_stage(cocu, name) for name in ("archive", "pairs", "clip", "embed")]
    archive, pairs, clip, embedded = found
    if archive is None or pairs is None or clip is None or embedded is None:
        return None
    return ArchiveFolders(archive / "archive", pairs, clip, embedded)


def of_scenes(cocu: Path, pixelclip: Path) -> tuple[str, ...]:
    """Those of `MODELS` that are there and have learnt from procedural scenes alone.

    Only the pairs of scenes have `TRUTH` beside them, and PixelCLIP's stage of captions is made
    for scenes alone.

    Args:
        cocu: root of a run of `reproduce cocu`.
        pixelclip: root of a run of `reproduce pixelclip`.
    """
    pairs = newest_stage(cocu, "pairs")
    known: set[str] = set()
    if pairs is not None and (pairs / TRUTH).is_file():
        known |= {BASELINE, CURATED}
    if newest_stage(pixelclip, "captions") is not None:
        known |= {TUNED, PLAIN}
    made = model_folders(cocu, pixelclip)
    return tuple(name for name in MODELS if name in known and made[name] is not None)


def how_to_make(model: str) -> str:
    """How to come by a model that no run has made."""
    command = COCU if model in (BASELINE, CURATED) else PIXELCLIP
    return f"run `{command}`, then start this page again"


def check_any(cocu: Path, pixelclip: Path) -> None:
    """Refuse to show a page on which nothing works.

    Raises:
        DataMissingError: neither run has finished a model or an archive.
    """
    models = model_folders(cocu, pixelclip).values()
    if archive_folders(cocu) is None and not any(models):
        raise DataMissingError(
            f"nothing to show: no finished run in {cocu} or {pixelclip}; make one with "
            f"`{COCU}` (minutes on two CPU cores), or name another with --cocu FOLDER"
        )
