"""The stand-in for a value of a row that Python cannot hold; made by :mod:`workers.runtime.loaders`."""

from collections.abc import Iterable
from typing import Any, NoReturn

from workers.runtime.faults import Permanent


class Undecodable:
    """Replaces a value that cannot be decoded; ``str()`` gives the reason.

    Code that uses it like a normal value raises Permanent with the reason, so the job of a handler fails at once.
    Arithmetic returns the same object, so that a list shows the reason, for example instead of an age.
    """

    __slots__ = ("reason",)
    # How many this process has made. If the number is equal before and after a fetch, the fetch made none.
    made = 0

    def __init__(self, reason: str) -> None:
        self.reason = reason
        Undecodable.made += 1

    def __repr__(self) -> str:
        return f"<cannot be read: {self.reason}>"

    def _itself(self, *_: object) -> "Undecodable":
        return self

    __add__ = __radd__ = __sub__ = __rsub__ = __copy__ = __deepcopy__ = _itself

    def _raise(self, *_: object) -> NoReturn:
        raise Permanent(f"a value cannot be read: {self.reason}")

    __iter__ = __len__ = __getitem__ = __contains__ = __lt__ = __le__ = __gt__ = __ge__ = _raise

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # special methods just do not exist
            raise AttributeError(name)
        self._raise()


def first_undecodable(values: Iterable[tuple[str, object]]) -> str | None:
    """Return the first unreadable value as ``name cannot be read: why``; None if all can be read."""
    for name, value in values:
        if isinstance(value, Undecodable):
            return f"{name} cannot be read: {value.reason}"
    return None
