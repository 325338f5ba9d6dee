"""What the README says, done."""

import re
from pathlib import Path

import pytest

import groupvit
from groupvit import train_config

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    code = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(code) == 1
    exec(compile(code[0], "README.md", "exec"), {})
    assert capsys.readouterr().out.strip() in {"dog", "grass", "sky"}


def test_every_field_of_a_recipe_is_in_the_table() -> None:
    rows = re.findall(r"^\| (`[^|]+) \|", README, re.MULTILINE)
    written = " ".join(rows)
    config = train_config({"optim": {"total_steps": 1}})
    towers = (config.model, config.model.vision, config.model.text)
    for part in (config, config.optim, config.data, config.machine, *towers):
        for name in type(part).__dataclass_fields__:
            if name not in {"optim", "data", "model", "machine", "vision", "text"}:
                assert re.search(rf"[`.]{name}`", written), name


def test_public_names_exist_and_are_sorted() -> None:
    assert all(hasattr(groupvit, name) for name in groupvit.__all__)
    constants = [name for name in groupvit.__all__ if name.isupper()]
    classes = [name for name in groupvit.__all__ if not name.isupper() and name[0].isupper()]
    functions = [name for name in groupvit.__all__ if name[0].islower()]
    assert groupvit.__all__ == sorted(constants) + sorted(classes) + sorted(functions)
