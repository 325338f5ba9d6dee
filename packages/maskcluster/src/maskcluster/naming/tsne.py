"""A plane on which near features are near: prompts at the start, learnt prompts, class names."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch.nn.functional as F
from torch import Tensor

from maskcluster.files import replacing
from maskcluster.precision import wide

FloatArray = npt.NDArray[np.float32]

PERPLEXITY = 30.0
"""About how many neighbours of a point count."""

LABELLED = 40
"""Class names that are written at most."""

_STYLE = {"at the start": ("#9a9a9a", "x"), "learnt": ("#d62728", "o"), "names": ("#1f77b4", "^")}


def tsne(sets: Mapping[str, Tensor], *, seed: int = 0) -> dict[str, FloatArray]:
    """Lay sets of features out together on a plane (t-SNE, Maaten and Hinton 2008).

    Rows are scaled to unit length, so squared distances are 2 - 2 cosine. The first places are the
    two principal components; gradients are exact, and the same rows give the same places. Only
    which points are near each other means something: neither axes nor large distances do.

    Args:
        sets: (n, D) rows by name, all of one D.
        seed: of the solver.

    Returns:
        (n, 2) places of each. With few rows the perplexity is a third of their number; rows that
        are all alike are all at one place.

    Raises:
        ValueError: rows of another width, or less than two in all.
    """
    from sklearn.manifold import TSNE  # takes a second

    rows = _unit_rows(sets)  # (n, D)
    if np.allclose(rows, rows[:1], rtol=0, atol=1e-6):
        places = np.zeros((len(rows), 2), np.float32)
    else:
        perplexity = min(PERPLEXITY, (len(rows) - 1) / 3)
        solver = TSNE(init="pca", method="exact", perplexity=perplexity, random_state=seed)
        places = solver.fit_transform(rows).astype(np.float32)
    ends = np.cumsum([len(part) for part in sets.values()])[:-1]
    return dict(zip(sets, np.split(places, ends), strict=True))


def _unit_rows(sets: Mapping[str, Tensor]) -> FloatArray:
    """(n, D) rows of all sets, one set after the other."""
    shapes = {name: tuple(rows.shape) for name, rows in sets.items()}
    widths = {shape[1:] for shape in shapes.values()}
    if len(widths) != 1 or any(len(shape) != 2 for shape in shapes.values()):
        raise ValueError(f"sets must be (n, D) with one D, got {shapes}")
    if sum(shape[0] for shape in shapes.values()) < 2:
        raise ValueError(f"a map needs at least two rows, got {shapes}")
    unit = [F.normalize(wide(rows.detach()).cpu(), dim=1).numpy() for rows in sets.values()]
    found: FloatArray = np.concatenate(unit).astype(np.float32)
    return found


def draw_tsne(
    path: Path,
    places: Mapping[str, FloatArray],
    names: Sequence[str],
    nearest: Sequence[int],
) -> Path:
    """Draw what `tsne` gives (the paper's figure of prompts among class names).

    Learnt prompts carry their number and a line to their nearest name; those names are written.

    Args:
        path: the PNG, replaced if it is there.
        places: of `learnt` and `names`, and of prompts `at the start` if they are known.
        names: of the class names' points.
        nearest: of each learnt prompt the number of its nearest name.

    Raises:
        ValueError: there are not as many names or prompts as places.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    learnt, words = places["learnt"], places["names"]
    if len(names) != len(words) or len(nearest) != len(learnt):
        raise ValueError(
            f"{len(words)} names and {len(learnt)} prompts have places, "
            f"got {len(names)} names and {len(nearest)} nearest ones"
        )
    figure = Figure(figsize=(11, 9), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_axis_off()
    for prompt, word in zip(learnt, words[list(nearest)], strict=True):
        axes.plot(*np.stack([prompt, word]).T, color="#d62728", linewidth=0.5, alpha=0.35, zorder=1)
    for name in [one for one in _STYLE if one in places]:
        colour, marker = _STYLE[name]
        title = "class names" if name == "names" else f"prompts {name}"
        axes.scatter(
            places[name][:, 0], places[name][:, 1], s=34, c=colour, marker=marker, alpha=0.85,
            label=f"{title} ({len(places[name])})", linewidths=1.0 if marker == "x" else 0,
            zorder=2,
        )  # fmt: skip
    for number, place in enumerate(learnt):
        axes.annotate(
            str(number), place, (0, 4), textcoords="offset points", ha="center", fontsize=6
        )
    for word in _labelled(nearest):
        axes.annotate(
            names[word], words[word], (0, -9), textcoords="offset points", ha="center",
            fontsize=8, color="#10486e",
            bbox={"facecolor": "white", "alpha": 0.6, "linewidth": 0, "pad": 0.5},
        )  # fmt: skip
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    with replacing(path) as part:
        figure.savefig(part, format="png", metadata={"Software": None})
    return path


def _labelled(nearest: Sequence[int]) -> list[int]:
    """Names that are written: those that most prompts are near to."""
    words, counts = np.unique(np.asarray(nearest, np.int64), return_counts=True)
    order = np.argsort(-counts, kind="stable")[:LABELLED]
    return sorted(words[order].tolist())
