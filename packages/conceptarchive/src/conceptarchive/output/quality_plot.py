"""A picture of an archive's quality; needs matplotlib (the extra `plot`)."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from conceptarchive.errors import UsageError
from conceptarchive.files import replacing
from conceptarchive.output.quality import Band, Bin, QualityReport


def require_matplotlib() -> None:
    """Raise UsageError where matplotlib is not installed."""
    if find_spec("matplotlib") is None:
        raise UsageError("a plot needs matplotlib; install it with: pip install matplotlib")


def plot_quality(
    path: Path,
    reports: Mapping[str, QualityReport],
    bins: Sequence[Bin],
    bands: Sequence[Band],
    *,
    k: int = 5,
) -> None:
    """Draw recall at every k by arm, the share of right concepts by score, recall by frequency.

    Args:
        path: of the picture, as .png or .svg.
        reports: by name of the arm; the first is the archive's.
        bins: of the archive's calibration.
        bands: of the archive's recall by frequency.
        k: of the bands.

    Raises:
        UsageError: matplotlib is not installed.
        IncompleteError: the picture cannot be written.
    """
    require_matplotlib()
    from matplotlib.figure import Figure  # takes a second, and only this needs it

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    recall, right, frequency = figure.subplots(1, 3)
    for name, report in reports.items():
        places = list(report.recall)
        line = recall.plot(places, list(report.recall.values()), marker="o", label=name)[0]
        low, high = zip(*report.recall_interval.values(), strict=True)
        recall.fill_between(places, low, high, alpha=0.15, color=line.get_color())
    recall.set(xlabel="k", ylabel="recall@k of what the caption leaves out", ylim=(0, 1))
    recall.legend(fontsize="small")
    right.plot(
        [(part.low + part.high) / 2 for part in bins], [part.right for part in bins], marker="o"
    )
    right.set(xlabel="score", ylabel="share of concepts the image shows", ylim=(0, 1))
    frequency.bar([band.name for band in bands], [band.recall for band in bands])
    frequency.set(xlabel="how often captions mention it", ylabel=f"recall@{k}", ylim=(0, 1))
    with replacing(path) as part:
        figure.savefig(part, dpi=130, format=path.suffix.removeprefix(".") or None)
