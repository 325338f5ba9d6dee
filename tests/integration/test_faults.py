"""The judge of the fault test: what it lets pass, and what it must not."""

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SAME, OTHER = {"metrics": {"miou": [0.5]}}, {"metrics": {"miou": [0.25]}}
TRACEBACK = ("Traceback (most recent call last):", "  File x", "OSError: full")
LINE = ("reproduce: a.npy: is gone; run again with --from embed",)


@pytest.fixture(scope="module")
def faults() -> ModuleType:
    """The command beside this file, which is no part of a package."""
    spec = importlib.util.spec_from_file_location("faults", Path(__file__).parent / "faults.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclasses look for themselves
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def judged(faults: ModuleType, tmp_path: Path) -> Callable[..., Any]:
    """Judges a run that ended so and left these numbers; `again` is what comes of the advice."""

    class Advised:
        again: Any = None

        def run(self, out: Path, *options: str) -> Any:
            assert options == ("--from", "embed")
            code, found = self.again
            (out / "results.json").write_text(json.dumps(found))
            return faults.Ended(code, (), "", 0.0)

    trial = faults.Trial.__new__(faults.Trial)
    trial.command, trial.top, trial.same, trial.cases = Advised(), tmp_path, SAME, []

    def judge(code: int, said: tuple[str, ...], found: Any = None, again: Any = None) -> Any:
        trial.command.again = again
        if found is not None:
            (tmp_path / "results.json").write_text(json.dumps({**found, "seconds": 1}))
        ended = faults.Ended(code, said, "embed", 1.0)
        follow = None if again is None else ("--from", "embed")
        trial.judge("damage", "x", tmp_path, ended, named="a.npy", follow=follow)
        return trial.cases[-1]

    return judge


def test_same_numbers_and_a_line_with_good_advice_pass(judged: Callable[..., Any]) -> None:
    assert judged(0, (), SAME).outcome == "same numbers"
    assert judged(1, LINE).outcome == "one line"
    assert judged(1, LINE, again=(0, SAME)).outcome == "one line, then same numbers"


@pytest.mark.parametrize(
    ("code", "said", "found", "again"),
    [
        (0, (), OTHER, None),
        (0, (), None, None),
        (1, TRACEBACK, None, None),
        (1, (), None, None),
        (1, (*LINE, *LINE), None, None),
        (-7, (), None, None),
        (5, LINE, None, None),
        (1, ("reproduce: b.npy: is gone",), None, None),
        (1, LINE, None, (0, OTHER)),
        (1, LINE, None, (1, SAME)),
    ],
)
def test_all_else_fails(
    judged: Callable[..., Any], code: int, said: tuple[str, ...], found: Any, again: Any
) -> None:
    assert not judged(code, said, found, again).passed


def test_damage_is_what_it_is_called(faults: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    left = {}
    for how, do in faults.DAMAGE.items():
        path.write_bytes(bytes(range(32)))
        do(path)
        left[how] = path.read_bytes() if path.exists() else None
    assert left["cut in half"] == bytes(range(16))
    assert left["empty"] == b""
    assert left["delete"] is None
    flipped = [i for i, byte in enumerate(left["flip 8 bytes of"] or b"") if byte != i]
    assert flipped == [*range(16, 24)]


@pytest.mark.parametrize(
    ("path", "plain"),
    [
        (
            "train-upper-bound-0-c5f0ada324/checkpoint-00000008/state.pt",
            "train/checkpoint-#/state.pt",
        ),
        ("pairs-2f7bc3aeca/00000.tar", "pairs/#.tar"),
        ("img_emb/img_emb_00001.npy", "img_emb/img_emb_#.npy"),
    ],
)
def test_files_of_a_kind_have_one_name(faults: ModuleType, path: str, plain: str) -> None:
    assert faults._plain(Path(path)) == plain


@pytest.mark.parametrize("verb", ["cocu", "pixelclip"])
def test_the_tests_recipes_are_found(faults: ModuleType, tmp_path: Path, verb: str) -> None:
    text = faults._tiny_recipe(verb, tmp_path).read_text()
    assert "a thousand times smaller" in text
    assert "total_steps" in text
