"""What the pages of all reports have in common."""

import re
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
color:#222}h2{margin-top:2.5rem;border-top:2px solid #ddd;padding-top:1rem}h3{margin:1.5rem 0 0}
.lead{font-size:19px;line-height:1.4;background:#eef3fa;border-left:4px solid #4c72b0;
padding:.7rem 1rem}
table{border-collapse:collapse;margin:1rem 0 .4rem}td,th{border:1px solid #ccc;
padding:.25rem .6rem;text-align:right}td:first-child,th:first-child{text-align:left}
caption{text-align:left;padding:.3rem 0;font-weight:600;min-width:24rem}
table+p,.note{font-size:13.5px;color:#555;margin-top:0}
figure{margin:1rem 0}img{max-width:100%}figcaption{font-size:13.5px}
.pair{display:flex;gap:1.2rem;align-items:flex-start;border-top:1px solid #ddd;padding:.8rem 0}
.pair img{image-rendering:pixelated}.pair p{margin:.2rem 0 .5rem}
.cards,.small{display:flex;flex-wrap:wrap;gap:.5rem;margin:.4rem 0}
.card{border:2px solid #bbb;border-radius:6px;padding:.2rem .6rem;line-height:1.3}
.right{border-color:#2e7d32;background:#e8f5e9}.wrong{border-color:#c62828;background:#fdecea}
.named{background:#f4f4f4;color:#555}.new{border-color:#4c72b0;background:#eef3fa}
.small figure{width:9rem;margin:0}.small img{width:9rem}
.grid{display:grid;grid-template-columns:repeat(var(--columns),minmax(0,1fr));gap:.8rem;
max-width:60rem;margin:.6rem 0 1.5rem}.grid figure{margin:0}
.grid img{width:100%;image-rendering:pixelated;display:block}
.legend span{display:inline-block;margin-right:1.2rem;white-space:nowrap}
.legend i{display:inline-block;width:1.1em;height:1.1em;margin-right:.45em;border:1px solid #555;
vertical-align:-.15em}.grid .legend span{display:block;margin:0 0 .2rem}
small{color:#666}pre{white-space:pre-wrap;background:#f4f4f4;padding:.6rem}</style>
<h1>$title</h1>$lead<p>$summary</p><p><small>$provenance</small></p>
<pre>$command</pre>
$body
</html>
"""
)
"""A page with `title`, `lead`, `summary`, `provenance`, `command` and `body`.

All but `lead` and `body` are escaped text.
"""


BOLD = re.compile(r"\*\*([^*]+)\*\*")


def write_page(
    path: Path,
    *,
    title: str,
    summary: str,
    command: str,
    sections: Mapping[str, Sequence[str]],
    lead: str = "",
) -> None:
    """Write the page of a run, which needs no other file.

    It begins with the command and ends with the environment.

    Args:
        path: the page, replaced if it is there.
        title: heading, plain text.
        summary: what was run, plain text.
        command: what a reader types for the same, plain text.
        sections: parts in HTML by their heading; the heading "" is left out.
        lead: what came out, plain text; it stands above all else.
    """
    parts: list[str] = []
    for heading, content in sections.items():
        parts += [f"<h2>{escape(heading)}</h2>"] if heading else []
        parts += content
    rows = [["environment", ""], *([name, value] for name, value in environment().items())]
    page = PAGE.substitute(
        title=escape(title),
        lead=f'<p class="lead">{escape(lead)}</p>' if lead else "",
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


def figure_tag(source: str, caption: str = "") -> str:
    """A picture of its address, as `figures.png_data` gives it, and plain text below it."""
    told = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure><img src="{source}" alt="{escape(caption)}">{told}</figure>'


def html_tables(text: str) -> str:
    """Markdown paragraphs and tables of `results.markdown` as HTML.

    The paragraph before a table is its caption. A page sets the one after it in small print. All
    else of Markdown but `**bold**` in paragraphs stays as it is written.
    """
    blocks = text.strip().split("\n\n")
    parts, caption = [], ""
    for block, after in zip(blocks, [*blocks[1:], ""], strict=True):
        if block.startswith("|"):
            parts.append(f"<table>{caption}{_html_rows(block)}</table>")
            caption = ""
        elif after.startswith("|"):
            caption = f"<caption>{escape(block)}</caption>"
        else:
            told = BOLD.sub(r"<b>\1</b>", escape(block))
            parts.append(f"<p>{told}</p>")
    return "\n".join(parts)


def _html_rows(block: str) -> str:
    """Rows of a Markdown table, the first as its head."""
    rows = [line.strip("|").split("|") for line in block.splitlines() if "---" not in line]
    cells = [
        "".join(f"<{tag}>{_unbroken(cell.strip())}</{tag}>" for cell in row)
        for tag, row in zip(["th"] + ["td"] * len(rows), rows, strict=False)
    ]
    return "".join(f"<tr>{row}</tr>" for row in cells)


def _unbroken(cell: str) -> str:
    """A cell as HTML, in which a mean and its error stay in one line."""
    return escape(cell).replace(" ± ", "\u00a0±\u00a0")
