"""Decide which failures the items caused and which the provider caused. Pure."""

import re
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from workers.runtime.handler.errors import InvalidAnswers, Refused, Retryable, describe

# If this many failures in a row are of the same kind, the provider caused them: before any item succeeded, and
# afterwards. The second number is larger, because neighbours in a file are often bad in the same way.
MAX_FIRST_ALIKE, MAX_LATER_ALIKE = 10, 50

T = TypeVar("T")


class HeldFailures(Generic[T]):
    """Holds failures back until it is clear whether the items or the provider caused them.

    A success shows that the provider works, so it releases the held failures. So does a failure that only the item can
    cause. If many other failures of the same kind come in a row, the provider caused them: its error is raised, and the
    held failures are not kept. ``error_of`` returns the error of a failed item, or None for a success. ``succeeded``
    says whether any item succeeded in an earlier run of the job.
    """

    def __init__(self, error_of: Callable[[T], Exception | None], *, succeeded: bool) -> None:
        self._error_of = error_of
        self._succeeded = succeeded
        self._held: list[T] = []
        self._errors: list[Exception] = []

    def sift(self, batch: Sequence[T]) -> list[T]:
        """Return the items of ``batch``, and of earlier batches, that may be kept now."""
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
        """Raise the provider's error if too many failures of one kind are held. Call it after the rest is kept."""
        if self._are_many():
            raise self._errors[0]

    def rest(self) -> list[T]:
        """Return the failures that are held at the end, or raise their error.

        If no item of the job ever succeeded, failures of one kind are an error of the job. Many retryable failures at
        the very end are an error of the job too, because the provider became unavailable.
        """
        held, errors = self._held, self._errors
        is_outage = len(held) >= MAX_FIRST_ALIKE and isinstance(errors[0], Retryable)
        if held and (is_outage or not self._succeeded) and _are_alike(errors):
            raise errors[0]
        self._held, self._errors = [], []
        return held

    def _release(self) -> list[T]:
        held, self._held, self._errors, self._succeeded = self._held, [], [], True
        return held

    def _are_many(self) -> bool:
        return len(self._held) >= (MAX_LATER_ALIKE if self._succeeded else MAX_FIRST_ALIKE)

    def _is_its_own(self, error: Exception) -> bool:
        """Tell whether only the item can have caused the error.

        Some models never answer in the requested form. If one item succeeded, this model can.
        """
        return isinstance(error, Refused) or (self._succeeded and isinstance(error, InvalidAnswers))


def _are_alike(errors: Sequence[Exception]) -> bool:
    return len(set(map(_kind, errors))) == 1


def _kind(error: Exception) -> str:
    """Return the text that failures of one kind share, without ids. All retryable errors are of one kind."""
    if isinstance(error, Retryable):
        return Retryable.__name__
    return f"{type(error).__name__}: {re.sub(r'[0-9a-f-]*[0-9][0-9a-f-]*', '#', describe(error))}"
