"""Words of a command to a call: dataclasses as options, recipes as defaults, many photographs."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from maskcluster.config import ClusterConfig
from maskcluster.errors import RecipeError, UsageError
from maskcluster.parsing import Photos, Verb, parse


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """A size."""

    width: int = 3
    """Pixels across."""

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"width must be >= 1, got {self.width}")


CALLS: list[object] = []


def draw(photos: Photos, *, size: Size, names: tuple[str, ...] = (), wide: bool = False) -> None:
    """Draw."""
    CALLS.append((photos, size, names, wide))


def tune(recipe: str, *, cluster: ClusterConfig, seed: int = 0) -> None:
    """Tune."""
    CALLS.append((recipe, cluster, seed))


def crash() -> None:
    """Crash."""
    raise ValueError("a mistake of the program")


VERBS: dict[str, Verb] = {"draw": draw, "tune": tune, "crash": crash}


def call(*words: str) -> object:
    parse(words, VERBS)()
    return CALLS.pop()


def test_photographs_before_options_are_one_list() -> None:
    assert call("draw", "a.jpg", "b, c.jpg") == (["a.jpg", "b, c.jpg"], Size(), (), False)
    assert call("draw", "a", "--size.width", "7", "--wide", "true") == (
        ["a"],
        Size(width=7),
        (),
        True,
    )


def test_a_recipe_gives_the_defaults_wherever_it_stands() -> None:
    name = "pixelclip-convnextb-names"
    for words in ((name, "--cluster.tokens", "9"), ("--cluster.tokens", "9", name)):
        found = call("tune", *words, "--seed", "4")
        assert isinstance(found, tuple)
        assert found[0] == name and found[2] == 4
        assert (found[1].tokens, found[1].clusters, found[1].balance) == (9, 171, False)


def test_the_last_word_on_a_field_counts() -> None:
    found = call("tune", "pixelclip-sa1b", "--cluster.eps", "1", "--cluster.eps", "2")
    assert isinstance(found, tuple) and found[1].eps == 2.0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("draw", "a", "--size.widht", "3"), r"unknown option --size.widht; did you mean --size.w"),
        (("draw", "a", "--size.width", "x"), "--size.width must be a whole number, got x; see mas"),
        (("draw", "a", "--size.width", "0"), "draw: width must be >= 1, got 0"),
        (("draw", "a", "--wide", "3"), "--wide must be true, false, got 3"),
        (("draw",), "photos"),
        ((), "maskcluster --help"),
        (("darw",), "darw.*choose from"),
    ],
    ids=str,
)
def test_what_cannot_be_understood_is_one_line(words: tuple[str, ...], said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        parse(words, VERBS)
    assert "\n" not in str(caught.value)
    assert not CALLS


def test_a_recipe_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no such file"):
        parse(["tune", str(tmp_path / "none.toml")], VERBS)


def test_a_mistake_of_the_program_is_not_taken_for_one_of_the_user() -> None:
    with pytest.raises(ValueError, match="a mistake of the program"):
        parse(["crash"], VERBS)()
