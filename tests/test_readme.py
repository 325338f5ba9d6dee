"""What the README promises is there: two commands, the packages, and every link."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PACKAGES = sorted(path.name for path in (ROOT / "packages").iterdir() if path.is_dir())
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)(?:\s[^)]*)?\)")


def documents() -> list[Path]:
    """Every Markdown file of the repository that is read as documentation."""
    found = [README, *(ROOT / "docs").rglob("*.md"), *(ROOT / "integration").glob("*.md")]
    return sorted([*found, *(ROOT / "packages").glob("*/*.md")])


def relative_links(text: str) -> Iterator[str]:
    """Targets of links that stay in the repository, without code blocks and anchors."""
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
    for match in LINK.finditer(prose):
        target = match.group(1).split("#")[0]
        if target and not re.match(r"[a-z]+:", target):
            yield target


def broken_links(document: Path) -> list[str]:
    """Relative links that lead nowhere."""
    text = document.read_text(encoding="utf-8")
    return [link for link in relative_links(text) if not (document.parent / link).exists()]


@pytest.mark.parametrize("command", ["reproduce cocu", "check"])
def test_a_command_of_the_readme_is_a_script(command: str) -> None:
    scripts = tomllib.loads((ROOT / "hatch.toml").read_text())["envs"]["default"]["scripts"]
    assert f"hatch run {command}" in README.read_text(encoding="utf-8")
    assert command.split()[0] in scripts


def test_check_runs_every_tool_in_order() -> None:
    scripts = tomllib.loads((ROOT / "hatch.toml").read_text())["envs"]["default"]["scripts"]
    tools = [" ".join(step.split()[:2]) for step in scripts["check"]]
    assert tools[:2] == ["ruff format", "ruff check"]
    assert [tool.split()[0] for tool in tools[2:]] == ["mypy", "lint-imports", "pytest"]


@pytest.mark.parametrize("document", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_resolve(document: Path) -> None:
    assert broken_links(document) == []


@pytest.mark.parametrize("package", [*PACKAGES, "integration"])
def test_readme_mentions_every_package(package: str) -> None:
    assert package in README.read_text(encoding="utf-8")


def test_a_broken_link_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "[a](page.md#top) [b](gone.md) ![c](no.png 'title') [d](https://example.org)\n"
        "[e](#here) `[f](code.md)`\n```\n[g](block.md)\n```\n"
    )
    assert broken_links(page) == ["gone.md", "no.png"]
