"""The public names of all packages, changed on purpose or not at all."""

import importlib
from pathlib import Path

import pytest

STORED = Path(__file__).parent / "public_api.txt"
PACKAGES = ("conceptarchive", "groupvit", "maskcluster", "segbench")
UPDATE = """
When the change is on purpose, write it into the package's CHANGELOG.md and store the new names:

    hatch run python tests/test_public_api.py
"""


def public_names() -> list[str]:
    """`package.name` of every `__all__`, sorted."""
    return sorted(
        f"{package}.{name}"
        for package in PACKAGES
        for name in getattr(importlib.import_module(package), "__all__", [])
    )


def difference(stored: list[str], found: list[str]) -> str:
    """What was added and removed, one name a line; empty when nothing was."""
    added = [f"  added:   {name}" for name in found if name not in stored]
    removed = [f"  removed: {name}" for name in stored if name not in found]
    return "\n".join(added + removed)


def test_public_names_are_those_stored() -> None:
    stored = STORED.read_text(encoding="utf-8").splitlines()
    assert stored == sorted(stored), f"{STORED.name} is not sorted.\n{UPDATE}"
    changed = difference(stored, public_names())
    assert not changed, f"the public API is not that of {STORED.name}:\n{changed}\n{UPDATE}"


@pytest.mark.parametrize("package", PACKAGES)
def test_all_names_each_public_name_once(package: str) -> None:
    module = importlib.import_module(package)
    names = getattr(module, "__all__", [])
    assert len(names) == len(set(names))
    for name in names:
        assert hasattr(module, name), name


def test_a_change_is_named() -> None:
    assert difference(["a.x", "a.y"], ["a.y", "a.z"]) == "  added:   a.z\n  removed: a.x"
    assert difference(["a.x"], ["a.x"]) == ""


if __name__ == "__main__":
    STORED.write_text("\n".join(public_names()) + "\n", encoding="utf-8")
