"""Which servers a command talks to: those of the settings, else those of the system that runs (`whereabouts`)."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cli.whereabouts import find, nothing_runs
from workers.runtime.refusals import Failed

if TYPE_CHECKING:
    from pydantic import SecretStr

    from config.settings import Settings

STARTING = "the system here is still starting; try again in a moment"


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where Postgres and Redis answer, passwords included. Redis may be unknown where only Postgres was configured."""

    database_url: str = field(repr=False)
    redis_url: str | None = field(repr=False)


def addresses(settings: "Settings") -> Addresses:
    """Return where the servers are; raise Failed if nothing says so."""
    database_url, redis_url = _given(settings.database_url), _given(settings.redis_url)
    if not (database_url and redis_url):
        found = find(settings)
        if found is not None:
            database_url = database_url or found.status.urls.get("database_url")
            redis_url = redis_url or found.status.urls.get("redis_url")
        if not database_url:
            raise Failed(STARTING if found else nothing_runs(settings))
    return Addresses(database_url, redis_url)


def required(settings: "Settings", name: str) -> str:
    """Return the URL setting ``name``; a role is told its servers and looks for none."""
    value = _given(getattr(settings, name))
    if not value:
        raise Failed(f"{name.upper()} must be set for a single role; `gristmill up` runs all of them here")
    return value


def _given(value: "SecretStr | None") -> str | None:
    return value.get_secret_value() if value else None
