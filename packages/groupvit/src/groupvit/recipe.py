"""Recipes: a TOML file, or the nested plain values of one, becomes a `TrainConfig`."""

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from groupvit.config import ModelConfig, TrainConfig
from groupvit.errors import RecipeError

T = TypeVar("T")

_FOLDER = files("groupvit") / "recipes"


def train_config(values: Mapping[str, Any]) -> TrainConfig:
    """Build a recipe from nested plain values, as in a TOML file or a checkpoint.

    Raises:
        RecipeError: an unknown, missing or impossible field, with its dotted name.
    """
    return _build(TrainConfig, values, "", TrainConfig)


def model_config(values: Mapping[str, Any]) -> ModelConfig:
    """Build a `ModelConfig` from nested plain values; errors as of `train_config`."""
    return _build(ModelConfig, values, "", ModelConfig)


def recipe_names() -> list[str]:
    """Recipes that come with the package, sorted."""
    return sorted(
        path.name.removesuffix(".toml") for path in _FOLDER.iterdir() if path.name != "__pycache__"
    )


def load_recipe(path: Path | str) -> TrainConfig:
    """Read a recipe; what it does not name keeps its default.

    Args:
        path: a TOML file, or the name of a recipe that comes with the package (`recipe_names`);
            `./cc3m` is a file, `cc3m` is not.

    Raises:
        RecipeError: no such file or recipe, not TOML, or errors as of `train_config`.
    """
    names = recipe_names()
    source = _FOLDER / f"{path}.toml" if str(path) in names else Path(path)
    try:
        return train_config(tomllib.loads(source.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        near = difflib.get_close_matches(str(path), names, n=1)
        raise RecipeError(
            f"{path}: no such file, and no recipe of the package: {', '.join(names)}"
            + (f"; did you mean {near[0]!r}?" if near else "")
        ) from error
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not TOML ({error})") from error
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from error


def _build(kind: type[T], values: object, prefix: str, whole: type) -> T:
    """Build a configuration dataclass; `prefix` is the dotted name of its table, with a dot."""
    if not isinstance(values, Mapping):
        raise RecipeError(f"{prefix.rstrip('.')} must be a table, got {values!r}")
    hints = get_type_hints(kind)
    for name in values:
        if name not in hints:
            raise RecipeError(_unknown(f"{prefix}{name}", whole))
    assert is_dataclass(kind)
    for field in fields(kind):
        if (
            field.default is MISSING
            and field.default_factory is MISSING
            and field.name not in values
        ):
            raise RecipeError(f"{prefix}{field.name} is missing; it has no default")
    arguments = {
        name: _value(hints[name], value, f"{prefix}{name}", whole) for name, value in values.items()
    }
    try:
        return kind(**arguments)
    except ValueError as error:
        raise RecipeError(f"{prefix.rstrip('.') or 'recipe'}: {error}") from error


def _value(hint: Any, value: object, name: str, whole: type) -> object:
    """Check a plain value against the type of its field."""
    if is_dataclass(hint):
        return _build(hint, value, f"{name}.", whole)  # type: ignore[arg-type]  # it is a type
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise RecipeError(f"{name} must be one of {', '.join(get_args(hint))}, got {value!r}")
        return value
    if get_origin(hint) is Mapping:
        return _texts(value, name)
    if get_origin(hint) is tuple:
        if not isinstance(value, list | tuple) or not all(type(each) is int for each in value):
            raise RecipeError(f"{name} must be a list of whole numbers, got {value!r}")
        return tuple(value)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise RecipeError(f"{name} must be {_KINDS[hint]}, got {value!r}")
    return value


def _texts(value: object, name: str) -> Mapping[str, str]:
    """Check a table of texts."""
    if not isinstance(value, Mapping):
        raise RecipeError(f"{name} must be a table, got {value!r}")
    for key, text in value.items():
        if type(text) is not str:
            raise RecipeError(f"{name}.{key} must be a text, got {text!r}")
    return value


_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def _unknown(name: str, whole: type) -> str:
    """What to say of a field that is not there: the nearest that is, if one is near."""
    known = list(_names(whole, ""))
    leaf = name.rpartition(".")[2]
    near = [one for one in known if one.rpartition(".")[2] == leaf]
    near = near or difflib.get_close_matches(name, known, n=1)
    return f"unknown field {name!r}" + (f"; did you mean {near[0]!r}?" if near else "")


def _names(kind: Any, prefix: str) -> Iterator[str]:
    for name, hint in get_type_hints(kind).items():
        yield from _names(hint, f"{prefix}{name}.") if is_dataclass(hint) else [f"{prefix}{name}"]
