"""What the pages of all reports have in common."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from string import Template

from integration.provenance import commit, environment, machine
from integration.results import table
from integration.stage import write_text

PAGE = Template(
    """<!doctype html><html lang="en"><meta charset="utf-8"><title>$title</title>
<style>body{font:15px/1.45 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;
color:#222}table{border-collapse:collapse;margin:1rem 0}td,th{border:1px solid #ccc;
padding:.25rem .6rem;text-align:right}td:first-child,th:first-child{text-align:left}
figure{margin:1rem 0}img{max-width:100%}.pair{display:flex;gap:1rem;align-items:flex-start;
border-top:1px solid #ddd;padding:.8rem 0}.pair img{image-rendering:pixelated}
.small img{width:96px}.in{color:#888}.new{font-weight:600}small{color:#666}
pre{white-space:pre-wrap;background:#f4f4f4;padding:.6rem}</style>
<h1>$title</h1><p>$summary</p><p><small>$provenance</small></p>
<pre>$command</pre>
$body
</html>
"""
)
"""A page with `title`, `summary`, `provenance`, `command` and `body`, all escaped but the last."""


def write_page(
    path: Path, *, title: str, summary: str, command: str, sections: Mapping[str, Sequence[str]]
) -> None:
    """Write the page of a run, which needs no other file.

    It begins with the command and ends with the environment.

    Args:
        path: the page, replaced if it is there.
        title: heading, plain text.
        summary: what was run, plain text.
        command: what a reader types for the same, plain text.
        sections: parts in HTML by their heading; the heading "" is left out.
    """
    parts: list[str] = []
    for heading, content in sections.items():
        parts += [f"<h2>{escape(heading)}</h2>"] if heading else []
        parts += content
    rows = [["environment", ""], *([name, value] for name, value in environment().items())]
    page = PAGE.substitute(
        title=escape(title),
        summary=escape(summary),
        provenance=escape(provenance_line()),
        command=escape(command),
        body="\n".join([*parts, "<h2>Environment</h2>", html_tables(table(rows))]),
    )
    write_text(path, page)


def provenance_line() -> str:
    """Date, commit and machine."""
    here = machine()
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, commit {commit() or 'unknown'}, {here['cpu']}, "
        f"{here['threads']} threads, {here['gpu'] or 'no GPU'}, torch {here['torch']}"
    )


def figure_tag(source: str) -> str:
    """A picture of its address, as `figures.png_data` gives it."""
    return f'<figure><img src="{source}"></figure>'


def html_tables(text: str) -> str:
    """Markdown paragraphs and tables of `results.markdown` as HTML."""
    parts = []
    for block in text.strip().split("\n\n"):
        if not block.startswith("|"):
            parts.append(f"<p>{escape(block)}</p>")
            continue
        rows = [line.strip("|").split("|") for line in block.splitlines() if "---" not in line]
        cells = [
            "".join(f"<{tag}>{escape(cell.strip())}</{tag}>" for cell in row)
            for tag, row in zip(["th"] + ["td"] * len(rows), rows, strict=False)
        ]
        parts.append("<table>" + "".join(f"<tr>{row}</tr>" for row in cells) + "</table>")
    return "\n".join(parts)
