"""What the words of a command ask for: options of functions and of their dataclasses."""

import difflib
import functools
import inspect
import json
import re
from argparse import ArgumentError
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from jsonargparse import auto_cli, set_parsing_settings

from maskcluster import __version__
from maskcluster.errors import UsageError
from maskcluster.recipe import load_recipe

Verb = Callable[..., None]

Photos = list[str] | str
"""Type of a verb's `photos` that may be several."""

_KINDS = {"bool": "true, false", "int": "a whole number", "float": "a number", "Path": "a path"}


def parse(args: Sequence[str], verbs: Mapping[str, Verb]) -> Callable[[], None]:
    """The call that the words of a command ask for.

    Options of a verb that has a `recipe` and dataclasses of `maskcluster.config` have the recipe's
    values where they are not given. Verbs that take a list of `photos` have them before all
    options.

    Args:
        args: words after the name of the command.
        verbs: by name.

    Raises:
        UsageError: words that cannot be understood, or a value that cannot be.
        RecipeError: as of `load_recipe`.
        SystemExit: help was asked for, and is printed.
    """
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    words = _gather(list(args), verbs)
    try:
        call = _read(words, verbs, {})
        if "recipe" in call.keywords:  # once more, with the recipe in place of the defaults
            call = _read(words, verbs, _defaults(call, verbs))
    except ArgumentError as error:
        asked = " ".join(["maskcluster", *(word for word in words[:1] if word in verbs)])
        raise UsageError(f"{_plain(str(error), words, verbs)}; see {asked} --help") from error
    return call


def _defaults(call: functools.partial[None], verbs: Mapping[str, Verb]) -> dict[str, Any]:
    """Values of the recipe of a call, by the names of the verb's options."""
    verb = next(name for name, one in verbs.items() if one is call.func)
    known = set(_options(call.func))
    values = _fields(asdict(load_recipe(call.keywords["recipe"])))
    return {f"{verb}.{name}": value for name, value in values if name in known}


def _read(
    words: list[str], verbs: Mapping[str, Verb], defaults: Mapping[str, Any]
) -> functools.partial[None]:
    later: dict[str, Any] = {name: _later(verb) for name, verb in verbs.items()}
    try:
        return auto_cli(  # type: ignore[no-any-return]  # what `_later` returns
            later,
            args=words,
            set_defaults=dict(defaults),
            prog="maskcluster",
            version=__version__,
            exit_on_error=False,
        )
    except ValueError as error:  # of a dataclass that options are read into
        raise UsageError(f"{words[0]}: {error}") from error


def _later(verb: Verb) -> Callable[..., functools.partial[None]]:
    """A function that looks like a verb to the parser, and does not run it."""

    @functools.wraps(verb)
    def later(**values: Any) -> functools.partial[None]:
        return functools.partial(verb, **values)

    return later


def _fields(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of nested tables; lists as the parser has them."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _fields(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", list(value) if isinstance(value, tuple) else value


def _plain(said: str, words: Sequence[str], verbs: Mapping[str, Verb]) -> str:
    """The parser's words on a wrong option, without Python's types."""
    line = re.sub(rf"\b(?:{'|'.join(verbs)})\.(?=\w)", "", " ".join(said.split()))
    wrong = re.search(r'key "([\w.]+)": (.*?)(?:Got|Given) value: (.*)$', line)
    if wrong:
        name, expected, got = wrong.groups()
        kinds = [_KINDS.get(kind) for kind in re.findall(r"<class '(\w+)'>", expected)]
        choices = re.findall(r"'(\w+)'", "".join(re.findall(r"Literal\[.*?\]", expected)))
        choice = ", ".join(dict.fromkeys(one for one in [*kinds, *choices] if one))
        return f"--{name} must be {choice}, got {got}"
    unknown = re.search(r"unrecognized arguments: --([\w.]+)", line)
    if unknown and words[0] in verbs:
        near = difflib.get_close_matches(unknown[1], _options(verbs[words[0]]), n=1)
        return f"unknown option --{unknown[1]}" + (f"; did you mean --{near[0]}?" if near else "")
    return line


def _options(verb: Verb) -> list[str]:
    """Names of all options of a verb."""
    found = []
    for name, parameter in inspect.signature(verb).parameters.items():
        kind = parameter.annotation
        inner = fields(kind) if hasattr(kind, "__dataclass_fields__") else None
        found += [name] if inner is None else [f"{name}.{field.name}" for field in inner]
    return found


def _gather(args: list[str], verbs: Mapping[str, Verb]) -> list[str]:
    """Make several photographs in a row the one list that the parser takes."""
    verb = verbs.get(args[0]) if args else None
    if verb is None or not _takes_photos(verb):
        return args
    options = (i for i, word in enumerate(args) if word.startswith("-"))
    end = next(options, len(args))
    photos = [json.dumps(args[1:end], ensure_ascii=False)] if end > 1 else []
    return [args[0], *photos, *args[end:]]


def _takes_photos(verb: Verb) -> bool:
    photos = inspect.signature(verb).parameters.get("photos")
    return photos is not None and photos.annotation == Photos
