"""What an archive says of pairs, for a reader: lines for a terminal, and a page with pictures."""

import shutil
from collections.abc import Sequence
from html import escape
from pathlib import Path

from conceptarchive.archive.reader import Concept, ConceptArchive, Reference
from conceptarchive.files import replacing
from conceptarchive.output.highlight import mentions_of, named, readable
from conceptarchive.output.pictures import Images, data_uri, pictures

__all__ = ["describe", "pictures", "write_page"]

PICTURE_PX, THUMBNAIL_PX = 560, 224  # of twice as many dots as they are shown with
WITNESSES = 8  # of a concept, shown on a page
GOLDEN_ANGLE = 137.508  # degrees between the hues of two clusters: far apart for any number
FIRST_HUE = 210  # of cluster 0

STYLE = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #fff; --text: #1c2128; --dim: #626c78;
  --line: #dfe3e8; --bar: #e9ecf0; --light: 40%; --tint: 92%; }
@media (prefers-color-scheme: dark) { :root { --page: #14171b; --card: #1d2126; --text: #e4e7eb;
  --dim: #97a1ad; --line: #323840; --bar: #2c3239; --light: 68%; --tint: 22%; } }
* { box-sizing: border-box; }
body { margin: 0; padding: 24px; background: var(--page); color: var(--text);
  font: 15px/1.45 system-ui, sans-serif; }
main { max-width: 1120px; margin: 0 auto; }
article { background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  padding: 20px; margin-bottom: 24px; }
header { display: flex; flex-wrap: wrap; gap: 20px; margin-bottom: 16px; }
header > div:last-child { flex: 1 1 320px; min-width: 0; }
.picture { width: 280px; height: 280px; }
.thumb { width: 112px; height: 84px; }
.picture, .thumb { background: var(--bar) center / contain no-repeat; border-radius: 8px;
  display: grid; place-items: center; color: var(--dim); font-size: 12px; flex: none; }
.held { background-color: transparent; background-position: left top; border-radius: 4px; }
h1 { font-size: 13px; font-weight: 500; color: var(--dim); margin: 0 0 6px;
  overflow-wrap: anywhere; }
.caption { font-size: 20px; line-height: 1.35; margin: 0 0 12px; overflow-wrap: anywhere; }
.note { color: var(--dim); font-size: 13px; margin: 4px 0; }
mark { color: inherit; border-radius: 3px; padding: 0 2px;
  background: hsl(var(--hue) 70% var(--tint));
  box-shadow: inset 0 -2px hsl(var(--hue) 65% var(--light)); }
section { display: grid; grid-template-columns: 250px minmax(0, 1fr); gap: 16px;
  padding: 14px 0; border-top: 1px solid var(--line); }
@media (max-width: 720px) { section { grid-template-columns: minmax(0, 1fr); } }
h2 { font-size: 16px; margin: 0; display: flex; gap: 8px; align-items: baseline;
  overflow-wrap: anywhere; }
h2 small { color: var(--dim); font-weight: 400; min-width: 20px; text-align: right; }
.score { display: flex; align-items: center; gap: 8px; margin: 6px 0;
  font-variant-numeric: tabular-nums; font-size: 13px; }
.track { flex: 1; height: 8px; border-radius: 4px; background: var(--bar); overflow: hidden; }
.fill { height: 100%; background: hsl(var(--hue) 65% var(--light)); }
.chip { font-size: 12px; border-radius: 10px; padding: 1px 8px; border: 1px solid var(--line);
  color: var(--dim); white-space: nowrap; }
.cluster { border-color: hsl(var(--hue) 65% var(--light));
  background: hsl(var(--hue) 70% var(--tint)); color: var(--text); }
.new { border-color: currentColor; color: var(--text); }
.witnesses { display: flex; flex-wrap: wrap; gap: 12px; }
figure { width: 112px; margin: 0; font-size: 12px; line-height: 1.35; }
figcaption { overflow-wrap: anywhere; }
figcaption span { color: var(--dim); font-variant-numeric: tabular-nums; display: block; }
"""


def describe(archive: ConceptArchive, key: str, top: int, *, width: int | None = None) -> str:
    """Lines that tell a pair's concepts, best first, each with its witnesses.

    Args:
        archive: the archive.
        key: pair id.
        top: at most this many concepts.
        width: letters of a line; by default those of the terminal.

    Raises:
        KeyError: no such pair.
    """
    width = width or shutil.get_terminal_size().columns
    caption = archive.caption(key)
    concepts = archive.concepts(key)[:top]
    lines = [readable(key), readable(caption) or "(no caption)", ""]
    if not concepts:
        lines.append("no concepts: no reference image's caption mentions one")
    shown = [readable(concept.name) for concept in concepts]
    name_width = max(map(len, shown), default=0)
    for rank, concept in enumerate(concepts, 1):
        mark = " " if named(caption, concept.name, archive.vocabulary) else "+"
        lines.append(
            f"{rank:3} {mark} {shown[rank - 1]:{name_width}}  {concept.score:7.4f}  "
            f"cluster {concept.cluster}"
        )
        lines += [
            f"        {witness.similarity:7.4f}  {readable(witness.caption)}"
            for witness in archive.witness_captions(key, concept.name)
        ]
    if concepts:
        lines += ["", "+ not in the caption; below: similarity and caption of each witness"]
    return "\n".join(_cut(line, width) for line in lines)


def write_page(archive: ConceptArchive, keys: Sequence[str], path: Path, *, images: Images) -> None:
    """Write one HTML file that shows pairs, their concepts and the witnesses of each.

    The file holds its pictures and needs no other; it asks for nothing from the network.

    Args:
        archive: the archive.
        keys: pair ids, one part of the page for each.
        path: the file; replaced when there is one.
        images: gives the image file of a pair, also of the pool's, or None.

    Raises:
        KeyError: no such pair.
        IncompleteError: the file cannot be written.
    """
    album = _Album(images)
    articles = "\n".join(_article(archive, key, album) for key in keys)
    title = escape(keys[0] if len(keys) == 1 else f"{len(keys)} pairs")
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
        f"<title>{title}</title>\n<style>{STYLE}{album.style}</style>\n</head>\n"
        f"<body>\n<main>\n{articles}\n</main>\n</body>\n</html>\n"
    )
    with replacing(path) as part:
        part.write_text(page, encoding="utf-8")


class _Album:
    """Pictures of a page: each is in the file once, as a style, however often it is shown."""

    def __init__(self, images: Images) -> None:
        self._images = images
        self._names: dict[tuple[str, int], str | None] = {}
        self._rules: list[str] = []

    @property
    def style(self) -> str:
        """The styles that hold the pictures."""
        return "\n".join(self._rules)

    def picture(self, key: str, kind: str, size_px: int) -> str:
        """A place of a kind with the picture of a pair, or with a note that there is none."""
        if (key, size_px) not in self._names:
            self._names[key, size_px] = self._add(key, size_px)
        name = self._names[key, size_px]
        if name is None:
            return f'<div class="{kind}">no picture</div>'
        return f'<div class="{kind} held {name}" role="img" aria-label="{escape(key)}"></div>'

    def _add(self, key: str, size_px: int) -> str | None:
        data = self._images(key)
        address = None if data is None else data_uri(data, size_px)
        if address is None:
            return None
        name = f"p{len(self._rules)}"
        self._rules.append(f".{name} {{ background-image: url({address}); }}")
        return name


def _article(archive: ConceptArchive, key: str, album: _Album) -> str:
    """The part of a page that shows one pair."""
    caption, concepts = archive.caption(key), archive.concepts(key)
    merges = archive.vocabulary.merge_plurals
    new = sum(not named(caption, concept.name, archive.vocabulary) for concept in concepts)
    clusters = len({concept.cluster for concept in concepts})
    count = f"{len(concepts)} concepts in {clusters} clusters; the caption lacks {new}"
    note = count if concepts else "no concepts: no reference image's caption mentions one"
    sections = "\n".join(
        _section(archive, key, rank, concept, album) for rank, concept in enumerate(concepts, 1)
    )
    return (
        f"<article>\n<header>{album.picture(key, 'picture', PICTURE_PX)}\n"
        f"<div><h1>{escape(key)}</h1>\n"
        f'<p class="caption">{_marked(caption, concepts, merges) or "(no caption)"}</p>\n'
        f'<p class="note">{note}</p></div></header>\n{sections}\n</article>'
    )


def _section(archive: ConceptArchive, key: str, rank: int, concept: Concept, album: _Album) -> str:
    """The part of a page that shows one concept and its witnesses."""
    vocabulary, best = archive.vocabulary, archive.entry(key)[1][0]
    filled = min(max(concept.score / best, 0), 1) if best > 0 else 0
    says = named(archive.caption(key), concept.name, vocabulary)
    chip = (
        '<span class="chip">in the caption</span>'
        if says
        else ('<span class="chip new">not in the caption</span>')
    )
    witnesses = archive.witness_captions(key, concept.name)
    figures = [
        _figure(witness, concept, vocabulary.merge_plurals, album)
        for witness in witnesses[:WITNESSES]
    ]
    if len(witnesses) > WITNESSES:
        figures.append(f'<p class="note">and {len(witnesses) - WITNESSES} more</p>')
    if not witnesses:
        figures.append('<p class="note">no witness: it comes from the pair\'s own caption</p>')
    return (
        f'<section style="--hue: {_hue(concept.cluster)}">\n<div>'
        f"<h2><small>{rank}</small>{escape(concept.name)}</h2>\n"
        f'<div class="score"><div class="track"><div class="fill" style="width: {filled:.1%}">'
        f"</div></div>{concept.score:.3f}</div>\n"
        f'<span class="chip cluster">cluster {concept.cluster}</span> {chip}</div>\n'
        f'<div class="witnesses">{"".join(figures)}</div>\n</section>'
    )


def _figure(witness: Reference, concept: Concept, merges: bool, album: _Album) -> str:
    """A witness: its picture, its similarity and its caption."""
    caption = _marked(witness.caption, [concept], merges)
    return (
        f'<figure title="{escape(witness.id)}">'
        f"{album.picture(witness.id, 'thumb', THUMBNAIL_PX)}"
        f"<figcaption><span>similarity {witness.similarity:.3f}</span>{caption}</figcaption>"
        "</figure>\n"
    )


def _marked(caption: str, concepts: Sequence[Concept], merges: bool) -> str:
    """A caption as HTML, with the mentions of concepts in the colours of their clusters."""
    text, parts, end = readable(caption), [], 0
    names = [concept.name for concept in concepts]
    for span in mentions_of(text, names, merge_plurals=merges):
        hue = _hue(concepts[span.name].cluster)
        said = escape(text[span.start : span.stop])
        parts += [escape(text[end : span.start]), f'<mark style="--hue: {hue}">{said}</mark>']
        end = span.stop
    return "".join([*parts, escape(text[end:])])


def _hue(cluster: int) -> int:
    """Colour of a cluster, in degrees."""
    return round(FIRST_HUE + cluster * GOLDEN_ANGLE) % 360


def _cut(line: str, width: int) -> str:
    """A line that fits, with a sign where something was left out."""
    return line if len(line) <= width else line[: max(width - 1, 0)] + "…"
