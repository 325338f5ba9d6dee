"""Recipes: TOML files that name what differs from the defaults."""

import dataclasses
import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from integration.errors import RecipeError

Config = TypeVar("Config")


def read_recipe(name: str, folder: Path) -> tuple[dict[str, Any], str]:
    """Values of a recipe, and what it is called.

    Args:
        name: among those in `folder`, or the path of a TOML file.
        folder: of built-in recipes.

    Raises:
        RecipeError: no such recipe, or unreadable TOML.
    """
    path = Path(name) if name.endswith(".toml") else folder / f"{name}.toml"
    if not path.exists():
        raise RecipeError(_no_recipe(name, folder))
    try:
        return tomllib.loads(path.read_text(encoding="utf-8")), path.stem
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not readable as TOML ({error})") from error


def typed(name: str, folder: Path) -> str:
    """What a reader gives to `--recipe` for a recipe of this name: it, or his own FILE.toml."""
    return name if (folder / f"{name}.toml").exists() else f"{name}.toml"


def check_own_name(name: str, folder: Path) -> None:
    """Refuse a file that is called as a built-in recipe and holds something else.

    The command that results name would make other numbers.

    Raises:
        RecipeError: it is.
    """
    path, built_in = Path(name), folder / Path(name).name
    if path.is_file() and built_in.exists() and built_in.read_bytes() != path.read_bytes():
        raise RecipeError(f"{path}: a built-in recipe is called {path.stem}; rename your file")


def check_known(name: str, *folders: Path) -> None:
    """Refuse a name that no recipe has, and list those of all kinds that there are.

    Args:
        name: of a recipe; the path of a TOML file is left to its reader.
        folders: of built-in recipes.

    Raises:
        RecipeError: no such recipe.
    """
    if not name.endswith(".toml") and not any((each / f"{name}.toml").exists() for each in folders):
        raise RecipeError(_no_recipe(name, *folders))


def _no_recipe(name: str, *folders: Path) -> str:
    """What to do instead of a recipe that is not there."""
    if name.endswith(".toml"):
        return f"no recipe {name!r}: no such file"
    known = [path.stem for folder in folders for path in sorted(folder.glob("*.toml"))]
    near = difflib.get_close_matches(name, known, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"no recipe {name!r}; there are {', '.join(known)}, or give a .toml file{hint}"


def has_source(name: str, folder: Path, source: str) -> bool:
    """Whether a recipe is a built-in one of `folder`, or a file with this `source`.

    What cannot be read is left to the reader of the others.
    """
    if not name.endswith(".toml"):
        return (folder / f"{name}.toml").exists()
    return Path(name).exists() and read_recipe(name, folder)[0].get("source") == source


def build_part(kind: type[Config], values: Mapping[str, Any], path: str, file: str) -> Config:
    """Build a part of a recipe from plain values, `path` being its place in `file`.

    Raises:
        RecipeError: an unknown field, or a value out of range.
    """
    check_fields(values, kind, f"{path}.", file)
    try:
        return kind(**values)
    except ValueError as error:
        raise RecipeError(f"{file}: [{path}] {error}") from error


def check_fields(values: Any, kind: type[Any], prefix: str, file: str) -> None:
    """Refuse what is not a table of known fields with values of their types."""
    if not isinstance(values, Mapping):
        raise RecipeError(f"{file}: {prefix.rstrip('.')} must be a table, got {values!r}")
    hints = get_type_hints(kind)
    known = [field.name for field in dataclasses.fields(kind) if field.name != "name"]
    for key, value in values.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = (
                f"; did you mean '{prefix}{near[0]}'?" if near else f"; known: {', '.join(known)}"
            )
            raise RecipeError(f"unknown key '{prefix}{key}' in {file}{hint}")
        if not _fits(value, hints[key]):
            raise RecipeError(f"{file}: {prefix}{key} must be {_wanted(hints[key])}, got {value!r}")


def _fits(value: object, hint: Any) -> bool:
    """Whether a plain value of a TOML file may stand in a field of this type."""
    origin, options = get_origin(hint), get_args(hint)
    if origin is Literal:
        return value in options
    if origin is UnionType:
        return any(_fits(value, option) for option in options)
    if origin is tuple:
        return isinstance(value, list) and all(_fits(each, options[0]) for each in value)
    if origin is Mapping:
        return isinstance(value, Mapping) and all(_fits(v, options[1]) for v in value.values())
    if hint is float:
        return type(value) in (int, float)
    # a part is checked where it is built
    return hint is Any or dataclasses.is_dataclass(hint) or type(value) is hint


def _wanted(hint: Any) -> str:
    """A type in the words of a recipe's author."""
    options = get_args(hint)
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(options)
    if get_origin(hint) is UnionType:
        return " or ".join(_wanted(option) for option in options if option is not type(None))
    return {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}.get(
        hint, "a list of texts" if get_origin(hint) is tuple else "a table of numbers"
    )
