"""Decide which failures are the items' own and which are the provider's. Pure."""

import re
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from workers.runtime.handler.errors import InvalidAnswers, Refused, Retryable, describe

# This many failures of the same kind in a row are the provider's: before any item succeeded, and afterwards. Afterwards
# it takes more, because neighbours in a file may well be bad in the same way.
FIRST_ALIKE, LATER_ALIKE = 10, 50

T = TypeVar("T")


class HeldFailures(Generic[T]):
    """Holds failures back until it is clear whether the items or the provider caused them.

    One success releases those that are held, and so does a failure that only the item can have caused: the provider
    works. Many others of the same kind in a row are the provider's: its error is raised, and none is kept.
    ``error_of`` returns the error of an item that failed, None for a success. ``succeeded`` says whether an earlier run
    of the job succeeded with any item.
    """

    def __init__(self, error_of: Callable[[T], Exception | None], *, succeeded: bool) -> None:
        self._error_of = error_of
        self._succeeded = succeeded
        self._held: list[T] = []
        self._errors: list[Exception] = []

    def sift(self, batch: Sequence[T]) -> list[T]:
        """Return what may be kept now."""
        kept: list[T] = []
        for one in batch:
            error = self._error_of(one)
            if error is None or self._is_its_own(error):
                kept += [*self._release(), one]
            else:
                self._held.append(one)
                self._errors.append(error)
        if self._are_many() and not _are_alike(self._errors):
            kept += self._release()
        return kept

    def raise_if_many(self) -> None:
        """Raise the provider's error if too many failures of one kind are held; call it when the rest is kept."""
        if self._are_many():
            raise self._errors[0]

    def rest(self) -> list[T]:
        """Return what is held at the end, or raise its error.

        If the job never succeeded with any item, failures of one kind are the job's own. So are many failures at the
        very end that another attempt may mend: the provider has gone.
        """
        held, errors = self._held, self._errors
        left = len(held) >= FIRST_ALIKE and isinstance(errors[0], Retryable)
        if held and (left or not self._succeeded) and _are_alike(errors):
            raise errors[0]
        self._held, self._errors = [], []
        return held

    def _release(self) -> list[T]:
        held, self._held, self._errors, self._succeeded = self._held, [], [], True
        return held

    def _are_many(self) -> bool:
        return len(self._held) >= (LATER_ALIKE if self._succeeded else FIRST_ALIKE)

    def _is_its_own(self, error: Exception) -> bool:
        """Tell whether only the item can have caused it.

        Some models never give the form that is asked for. If one item succeeded, this model does.
        """
        return isinstance(error, Refused) or (self._succeeded and isinstance(error, InvalidAnswers))


def _are_alike(errors: Sequence[Exception]) -> bool:
    return len(set(map(_kind, errors))) == 1


def _kind(error: Exception) -> str:
    """Return what failures of one kind have in common. A server that is down says so in many ways; ids differ."""
    if isinstance(error, Retryable):
        return Retryable.__name__
    return f"{type(error).__name__}: {re.sub(r'[0-9a-f-]*[0-9][0-9a-f-]*', '#', describe(error))}"
