"""Versions of rows that have no column for them: the time of their last change."""

from datetime import UTC, datetime, timedelta

from workers.runtime.refusals import StaleVersion

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def version_at(changed_at: datetime | None) -> int:
    """Return the version of a row that was changed last at this time: microseconds since 1970, 0 for None. Pure."""
    return 0 if changed_at is None else (changed_at - _EPOCH) // timedelta(microseconds=1)


def require_version(what: str, changed_at: datetime | None, wanted: int | None) -> None:
    """Raise StaleVersion unless ``wanted`` is the version of the row, which is locked. None: any version."""
    found = version_at(changed_at)
    if wanted not in {None, found}:
        raise StaleVersion(f"{what} is at version {found}, got version {wanted}: look at it again")
