"""What stands beside the code: how to cite it, how to contribute, one form for all READMEs."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # it has no types

ROOT = Path(__file__).parents[1]
PACKAGES = sorted(path.name for path in (ROOT / "packages").iterdir() if path.is_dir())
FORM = ("Install", "In Python", "Command line", "Files", "Speed", "What has not been run")
"""Headings that the README of every package has, in this order; others may stand between."""


def test_the_citation_names_licence_and_papers() -> None:
    cited: dict[str, Any] = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors", "license"} <= cited.keys()
    assert cited["license"] == "Apache-2.0"
    urls = {paper["url"].rpartition("/")[2] for paper in cited["references"]}
    assert urls == {"2202.11094", "2309.13505", "2409.19846"}
    assert all(paper["authors"] and paper["title"] for paper in cited["references"])


def test_paths_that_contributors_are_sent_to_are_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    segbench = ROOT / "packages/segbench/src/segbench"
    for name in ("datasets/voc.py", "datasets/benchmarks.py", "models/last_block.py"):
        assert name.rpartition("/")[2] in text
        assert (segbench / name).is_file()
    assert "ALIASES" in (segbench / "models/__init__.py").read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        assert (ROOT / link).exists(), link


@pytest.mark.parametrize("package", PACKAGES)
def test_a_readme_has_the_form_of_all(package: str) -> None:
    text = (ROOT / "packages" / package / "README.md").read_text(encoding="utf-8")
    code = re.compile(r"```.*?```", re.DOTALL)
    headings = re.findall(r"^## (.+)$", code.sub("", text), re.MULTILINE)
    assert [heading for heading in headings if heading in FORM] == list(FORM)
    assert text.startswith(f"# {package}\n")
