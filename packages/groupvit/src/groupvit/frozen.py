"""A mapping that a frozen dataclass can hold."""

from typing import NoReturn


class FrozenDict(dict[str, str]):
    """A dictionary of texts that cannot be changed and has a hash.

    It stays a `dict`, so that `dataclasses.asdict` and `json` take it as one.
    """

    def __hash__(self) -> int:  # type: ignore[override]  # dict has none because it can be changed
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[type["FrozenDict"], tuple[dict[str, str]]]:
        return FrozenDict, (dict(self),)  # by default a copy is filled item by item

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("a FrozenDict cannot be changed")

    __setitem__ = __delitem__ = __ior__ = _refuse
    update = setdefault = pop = popitem = clear = _refuse
