"""Who may import whom: packages not each other, integration their top-level names only."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("conceptarchive", "groupvit", "maskcluster", "segbench")


def imported(source: str) -> Iterator[tuple[str, str | None]]:
    """Module, and name for `from module import name`, of every import in a file."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from ((node.module or "", alias.name) for alias in node.names)


def below_the_top(source: str) -> list[str]:
    """Imports that reach into a package, past its top-level names."""
    return [
        module
        for module, _ in imported(source)
        if module.split(".")[0] in PACKAGES and "." in module
    ]


def of_others(source: str, own: str) -> list[str]:
    """Imports of another package or of integration."""
    others = {*PACKAGES, "integration"} - {own}
    return [module for module, _ in imported(source) if module.split(".")[0] in others]


def test_import_contracts_are_kept() -> None:
    command = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([command], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_nothing_of_the_others(package: str) -> None:
    files = sorted((ROOT / "packages" / package / "src").rglob("*.py"))
    assert files
    for file in files:
        assert of_others(file.read_text(encoding="utf-8"), package) == [], file


def test_integration_imports_top_level_names_only() -> None:
    files = sorted((ROOT / "integration").rglob("*.py"))
    assert files
    for file in files:
        assert below_the_top(file.read_text(encoding="utf-8")) == [], file


def test_integration_imports_public_names_only() -> None:
    public = (ROOT / "tests" / "public_api.txt").read_text(encoding="utf-8").split()
    for file in sorted((ROOT / "integration").glob("*.py")):
        for module, name in imported(file.read_text(encoding="utf-8")):
            if module in PACKAGES:
                assert f"{module}.{name}" in public, f"{file}: {name} is not in {module}.__all__"


def test_a_breach_is_seen() -> None:
    assert below_the_top("from groupvit.texts import Texts") == ["groupvit.texts"]
    assert below_the_top("import segbench.protocols.task as t") == ["segbench.protocols.task"]
    assert below_the_top("from groupvit import GroupViT\nimport torch.nn") == []
    assert of_others("def f():\n    from segbench import Task", "groupvit") == ["segbench"]
    assert of_others("import integration.stage", "segbench") == ["integration.stage"]
    assert of_others("from segbench.protocols.task import Task", "segbench") == []
