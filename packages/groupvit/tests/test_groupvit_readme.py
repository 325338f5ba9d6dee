"""What the README says, done."""

import re
from pathlib import Path

import pytest

import groupvit
from groupvit import TrainConfig, load_model, train_config

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_examples_run(
    colour_shard: Path,
    tiny_recipe: TrainConfig,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    segmenting, training = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(segmenting, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip() in {"dog", "grass", "sky"}
    (tmp_path / "pairs").mkdir()
    colour_shard.rename(tmp_path / "pairs" / colour_shard.name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(groupvit, "load_recipe", {"tiny": tiny_recipe}.get)  # twelve pairs
    exec(compile(training, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip() == "runs/mine/checkpoint-00000008"
    assert load_model("runs/mine").config == tiny_recipe.model


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
