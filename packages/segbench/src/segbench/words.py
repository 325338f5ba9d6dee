"""Class names and prompt templates that come with the package."""

import json
import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, Literal

from segbench.errors import FormatError, UsageError, unknown

NAME_SLOT = re.compile(r"\{(?:c|category)?\}")


def load_templates(name: str) -> tuple[str, ...]:
    """Templates of a set that comes with the package.

    Args:
        name: a file of `prompts/` without its suffix, optionally with `:set`.

    Raises:
        UsageError: no such file or set.
    """
    content, variant = _load("prompts", name)
    templates = content["sets"][variant] if variant else content["templates"]
    return tuple(templates)


def load_names(name: str) -> tuple[str, ...]:
    """Class names of a list that comes with the package.

    Args:
        name: a file of `classnames/` without its suffix, optionally with `:variant`.

    Raises:
        UsageError: no such file or variant, or the file is no list of names.
    """
    content, variant = _load("classnames", name)
    classes = content["variants"][variant]["classes"] if variant else content.get("classes")
    if not (classes and all(isinstance(entry, str) for entry in classes)):
        raise UsageError(f"{name!r} does not hold one name a class")
    return tuple(classes)


def load_queries(name: str) -> tuple[tuple[str, ...], ...]:
    """Names of classes, each with all of its synonyms; a list of single names has one each.

    Args:
        name: as of `load_names`.

    Raises:
        UsageError: no such file or variant, or the file is no list of names.
    """
    content, variant = _load("classnames", name)
    classes = content["variants"][variant]["classes"] if variant else content.get("classes")
    if not classes:
        raise UsageError(f"{name!r} does not hold names of classes")
    return tuple((entry,) if isinstance(entry, str) else tuple(entry) for entry in classes)


def list_sets(folder: Literal["prompts", "classnames"]) -> list[str]:
    """Names of the files of a folder of the package, without suffix, sorted."""
    entries = (files("segbench") / folder).iterdir()
    return sorted(e.name.removesuffix(".json") for e in entries if e.name.endswith(".json"))


def _load(folder: Literal["prompts", "classnames"], name: str) -> tuple[dict[str, Any], str]:
    stem, _, variant = name.partition(":")
    if stem not in list_sets(folder):
        raise UsageError(unknown(folder, stem, list_sets(folder)))
    text = (files("segbench") / folder / f"{stem}.json").read_text(encoding="utf-8")
    content: dict[str, Any] = json.loads(text)
    known = content.get("sets" if folder == "prompts" else "variants", {})
    if variant and variant not in known:
        raise UsageError(unknown(f"variant of {stem}", variant, known))
    return content, variant


def fill_template(template: str, name: str) -> str:
    """Put a class name into a template.

    Args:
        template: with a slot `{}`, `{c}` or `{category}` for the name; `{article}` becomes "a" or
            "an" by the first letter of the name.
        name: the class name, or one synonym of it.

    Raises:
        FormatError: the template has no slot for the name, or a slot that is not known.
    """
    if not NAME_SLOT.search(template):
        raise FormatError(f"template {template!r} has no slot {{}} for the class name")
    article = "an" if name[:1].lower() in set("aeiou") else "a"
    text = NAME_SLOT.sub(lambda _: name, template.replace("{article}", article))
    left = re.search(r"\{\w*\}", text)
    if left and left.group() not in name:
        raise FormatError(f"template {template!r} has an unknown slot {left.group()}")
    return text


def clean_name(name: str, suffixes: Sequence[str]) -> str:
    """Take `suffixes` off the end of a name until none is left: "wall-other-merged" -> "wall"."""
    for suffix in suffixes:
        if suffix and name != suffix and name.endswith(suffix):
            return clean_name(name.removesuffix(suffix), suffixes)
    return name
