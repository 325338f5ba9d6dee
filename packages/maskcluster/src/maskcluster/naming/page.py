"""One HTML page about all clusters of a model."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from maskcluster.files import write_text
from maskcluster.naming.names import NamedCluster
from maskcluster.naming.palette import colours

_STYLE = """
body { font: 15px/1.4 system-ui, sans-serif; margin: 2em auto; max-width: 1750px; padding: 0 1em }
table { border-collapse: collapse } td, th { padding: 2px 12px 2px 0; text-align: left }
td.n { text-align: right; font-variant-numeric: tabular-nums } img { max-width: 100% }
i { display: inline-block; width: 1.4em; height: .9em; border: 1px solid #888 }
small { color: #666 }
"""


def write_page(
    folder: Path,
    clusters: Sequence[NamedCluster],
    *,
    plot: Path | None,
    pictures: Sequence[Path],
) -> Path:
    """Write index.html: the t-SNE plot, pictures, and a table of clusters.

    Args:
        folder: where; files are linked relative to it.
        clusters: of `maskcluster.naming.names.name_clusters`.
        plot: a picture in the folder.
        pictures: of photographs, in the folder.
    """
    distinct = len({one.name for one in clusters})
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>Clusters and names</title>",
        f"<style>{_STYLE}</style><h1>{len(clusters)} clusters, {distinct} names</h1>",
    ]
    if pictures:
        parts.append("<h2>Photographs</h2>")
        parts += [f"<p>{_image(folder, picture)}</p>" for picture in pictures]
    if plot is not None:
        parts.append(f"<h2>Prompts among class names</h2><p>{_image(folder, plot)}</p>")
    parts += ["<h2>Nearest names</h2>", _table(clusters), "</html>"]
    page = folder / "index.html"
    write_text(page, "\n".join(parts) + "\n")
    return page


def _image(folder: Path, picture: Path) -> str:
    link = picture.relative_to(folder).as_posix()
    return f"<img loading='lazy' src='{quote(link)}' alt='{escape(link, quote=True)}'>"


def _table(clusters: Sequence[NamedCluster]) -> str:
    rows = ["<table><tr><th></th><th>cluster</th><th>name</th><th>cosine</th><th>masks</th>"]
    rows.append("<th>pixels</th><th>runners-up</th></tr>")
    for one, (red, green, blue) in zip(clusters, colours(len(clusters)).tolist(), strict=True):
        others = ", ".join(f"{escape(name)} {value:.3f}" for name, value in one.runners_up)
        masks = "" if one.masks is None else str(one.masks)
        pixels = "" if one.pixels is None else f"{one.pixels:.1%}"
        rows.append(
            f"<tr><td><i style='background: rgb({red} {green} {blue})'></i></td>"
            f"<td class='n'>{one.cluster}</td><td>{escape(one.name)}</td>"
            f"<td class='n'>{one.similarity:.3f}</td><td class='n'>{masks}</td>"
            f"<td class='n'>{pixels}</td><td><small>{others}</small></td></tr>"
        )
    return "\n".join([*rows, "</table>"])
