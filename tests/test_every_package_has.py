"""What every package brings: licence, description, history, types, a version."""

import importlib
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = sorted(path for path in (ROOT / "packages").iterdir() if path.is_dir())
EVERY = pytest.mark.parametrize(
    "folder", [*FOLDERS, ROOT / "integration"], ids=lambda path: path.name
)


def modules(folder: Path) -> Path:
    """Folder of a package's modules: `src/NAME`, or beside pyproject.toml."""
    inside = folder / "src" / folder.name
    return inside if inside.exists() else folder


def project(folder: Path) -> dict[str, Any]:
    content = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
    return dict(content["project"])


def test_there_are_four_packages() -> None:
    assert [folder.name for folder in FOLDERS] == [
        "conceptarchive", "groupvit", "maskcluster", "segbench",
    ]  # fmt: skip


@EVERY
def test_files_of_a_package(folder: Path) -> None:
    for name in ("LICENSE", "README.md", "CHANGELOG.md", "pyproject.toml"):
        assert (folder / name).stat().st_size > 0, name
    assert (modules(folder) / "py.typed").is_file()


@EVERY
def test_the_licence_is_the_repository_s(folder: Path) -> None:
    assert (folder / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert project(folder)["license"] == "Apache-2.0"


@EVERY
def test_the_version_stands_in_one_place(folder: Path) -> None:
    version = importlib.import_module(folder.name).__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    assert "version" in project(folder)["dynamic"]
    assert "version" not in project(folder)


@EVERY
def test_the_history_knows_the_version_or_what_comes_next(folder: Path) -> None:
    version = importlib.import_module(folder.name).__version__
    headings = re.findall(r"^## (.+)$", (folder / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert any(version in heading or "Unreleased" in heading for heading in headings), headings


@EVERY
def test_python_and_description(folder: Path) -> None:
    assert project(folder)["requires-python"] == ">=3.11"
    assert project(folder)["description"].endswith(".")
