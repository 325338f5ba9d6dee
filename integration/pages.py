"""What the pages of all reports have in common."""

from datetime import UTC, datetime
from html import escape
from string import Template

from integration.provenance import commit, machine

PAGE = Template(
    """<!doctype html><html lang="en"><meta charset="utf-8"><title>$title</title>
<style>body{font:15px/1.45 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;
color:#222}table{border-collapse:collapse;margin:1rem 0}td,th{border:1px solid #ccc;
padding:.25rem .6rem;text-align:right}td:first-child,th:first-child{text-align:left}
figure{margin:1rem 0}img{max-width:100%}.pair{display:flex;gap:1rem;align-items:flex-start;
border-top:1px solid #ddd;padding:.8rem 0}.pair img{image-rendering:pixelated}
.small img{width:96px}.in{color:#888}.new{font-weight:600}small{color:#666}</style>
<h1>$title</h1><p>$summary</p><p><small>$provenance</small></p>
$body
</html>
"""
)
"""A page with `title`, `summary`, `provenance` and `body`, all escaped but the last."""


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
