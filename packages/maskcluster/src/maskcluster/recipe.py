"""Recipes: a TOML file, or the nested plain values of one, becomes a `TrainConfig` and back."""

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from maskcluster.config import TrainConfig
from maskcluster.errors import RecipeError

T = TypeVar("T")

_FOLDER = files("maskcluster") / "recipes"
_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def train_config(values: Mapping[str, Any]) -> TrainConfig:
    """Build a recipe from nested plain values, as in a TOML file or a checkpoint.

    Raises:
        RecipeError: an unknown, missing or impossible field, with its dotted name.
    """
    return build(TrainConfig, values)


def build(kind: type[T], values: Mapping[str, Any]) -> T:
    """Build any dataclass of `maskcluster.config` from nested plain values.

    Raises:
        RecipeError: as of `train_config`.
    """
    return _build(kind, values, "", kind)


def recipe_names() -> list[str]:
    """Recipes that come with the package, sorted."""
    names = (path.name for path in _FOLDER.iterdir())
    return sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml"))


def load_recipe(path: Path | str) -> TrainConfig:
    """Read a recipe; what it does not name keeps its default.

    Args:
        path: a TOML file, or the name of a recipe that comes with the package (`recipe_names`);
            `./pixelclip-sa1b` is a file, `pixelclip-sa1b` is not.

    Raises:
        RecipeError: no such file or recipe, not TOML, or errors as of `train_config`.
    """
    names = recipe_names()
    source = _FOLDER / f"{path}.toml" if str(path) in names else Path(path)
    try:
        return train_config(tomllib.loads(source.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise RecipeError(_no_recipe(str(path), names)) from error
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not TOML ({error})") from error
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from error


def recipe_text(config: object) -> str:
    """Write a recipe in full as TOML; `load_recipe` of it gives an equal object.

    Args:
        config: any dataclass of `maskcluster.config`.
    """
    assert is_dataclass(config) and not isinstance(config, type)
    return "\n".join(_table(asdict(config), ""))


def _table(values: Mapping[str, Any], name: str) -> Iterator[str]:
    """Lines of a table: its own values, then the tables in it."""
    inner = {key: value for key, value in values.items() if isinstance(value, Mapping)}
    if name:
        yield f"[{name}]"
    for key, value in values.items():
        if key not in inner:
            yield f"{key} = {_plain(value)}"
    yield ""
    for key, value in inner.items():
        yield from _table(value, f"{name}.{key}" if name else key)


def _plain(value: object) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_plain, value))}]"
    if isinstance(value, str):
        return f'"{"".join(map(_escaped, value))}"'
    return repr(value)


def _escaped(letter: str) -> str:
    if letter in '"\\':
        return f"\\{letter}"
    return f"\\u{ord(letter):04x}" if ord(letter) < 32 or ord(letter) == 127 else letter


def _no_recipe(path: str, names: list[str]) -> str:
    near = difflib.get_close_matches(path, names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{path}: no such file, and no recipe of the package: {', '.join(names)}{hint}"


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
        required = field.default is MISSING and field.default_factory is MISSING
        if required and field.name not in values:
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
    if get_origin(hint) is tuple:
        return _list(get_args(hint)[0], value, name, whole)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise RecipeError(f"{name} must be {_KINDS[hint]}, got {value!r}")
    return value


def _list(hint: Any, value: object, name: str, whole: type) -> tuple[object, ...]:
    """Check a list whose entries are all of one type."""
    if not isinstance(value, list | tuple):
        raise RecipeError(f"{name} must be a list, got {value!r}")
    return tuple(_value(hint, each, f"{name}[{i}]", whole) for i, each in enumerate(value))


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
