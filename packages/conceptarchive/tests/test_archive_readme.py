import re
from pathlib import Path

import pytest

import conceptarchive

README = Path(__file__).parents[1] / "README.md"


def test_example_runs_and_finds_the_grass(capsys: pytest.CaptureFixture[str]) -> None:
    example = re.search(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert example is not None
    exec(example[1], {})
    lines = capsys.readouterr().out.splitlines()
    assert "name='grass'" in lines[0]
    assert "demo/00000/0" in lines[1]
    assert len(eval(lines[2])) == 2


def test_public_names_exist_and_are_in_the_readme() -> None:
    text = README.read_text(encoding="utf-8")
    for name in conceptarchive.__all__:
        assert hasattr(conceptarchive, name)
    for name in re.findall(r"^\| `(\w+)`", text, re.MULTILINE):
        assert name in (*conceptarchive.__all__, "embed", "check")
