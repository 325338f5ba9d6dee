"""The class that a prompt names, for models that know classes and no words."""

import json
import re
from functools import lru_cache
from importlib.resources import files

from segbench.words import NAME_SLOT, list_sets

_ARTICLE = re.escape("{article}")


def names_in(prompt: str) -> list[str]:
    """What stands in the slot of every template of the package that a prompt may have come from.

    Args:
        prompt: a filled template.

    Returns:
        Candidates, longest first: "a toy cat." gives "toy cat" before "cat" where both "a {}." and
        "a toy {}." are templates. The prompt itself where no template fits.
    """
    found = {match.group("name") for form in _forms() if (match := form.fullmatch(prompt))}
    return sorted(found, key=lambda name: (-len(name), name)) or [prompt]


@lru_cache(maxsize=1)
def _forms() -> tuple[re.Pattern[str], ...]:
    """Every template of the package as a pattern, but for the bare slot, which fits anything."""
    texts: set[str] = set()
    for name in list_sets("prompts"):
        content = json.loads((files("segbench") / "prompts" / f"{name}.json").read_text("utf-8"))
        texts.update(content["templates"], *content.get("sets", {}).values())
    return tuple(re.compile(_pattern(text)) for text in sorted(texts - {"{}"}))


def _pattern(template: str) -> str:
    before, after = NAME_SLOT.split(template, maxsplit=1)
    fixed = (re.escape(part).replace(_ARTICLE, "(?:a|an)") for part in (before, after))
    return "(?P<name>.+)".join(fixed)
