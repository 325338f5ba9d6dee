"""Which results of finished runs the page can show, and the commands that make the others."""

import re
from dataclasses import dataclass
from pathlib import Path

from integration.errors import DataMissingError

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


def how_to_make(model: str) -> str:
    """What to say of a model that no run has made."""
    command = COCU if model in (BASELINE, CURATED) else PIXELCLIP
    return f"{model} is not there yet; make it with: {command}"


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
