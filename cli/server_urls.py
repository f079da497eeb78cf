"""The servers that a command uses: those of the settings, else those of the running system (`running_system`)."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cli.running_system import find_system, no_system_line
from workers.runtime.refusals import Failed

if TYPE_CHECKING:
    from pydantic import SecretStr

    from config.settings import Settings

STILL_STARTING = "the system here is still starting; try again in a moment"


@dataclass(frozen=True, slots=True)
class ServerUrls:
    """The URLs of Postgres and Redis, passwords included. Redis may be unknown if only Postgres is configured."""

    database_url: str = field(repr=False)
    redis_url: str | None = field(repr=False)


def find_server_urls(settings: "Settings") -> ServerUrls:
    """Return the URLs of the servers; raise Failed if neither the settings nor a running system has them."""
    database_url, redis_url = _configured(settings.database_url), _configured(settings.redis_url)
    if not (database_url and redis_url):
        system = find_system(settings)
        if system is not None:
            database_url = database_url or system.status.urls.get("database_url")
            redis_url = redis_url or system.status.urls.get("redis_url")
        if not database_url:
            raise Failed(STILL_STARTING if system else no_system_line(settings))
    return ServerUrls(database_url, redis_url)


def required_url(settings: "Settings", name: str) -> str:
    """Return the URL setting ``name``. A role does not search for a running system."""
    value = _configured(getattr(settings, name))
    if not value:
        raise Failed(f"{name.upper()} must be set for a single role; `gristmill up` runs all of them here")
    return value


def _configured(value: "SecretStr | None") -> str | None:
    return value.get_secret_value() if value else None
