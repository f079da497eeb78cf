"""Who calls, and what the call may do."""

from dataclasses import dataclass
from typing import Protocol
from uuid import UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """An authenticated caller.

    ``name`` is the name in the audit: ``key:NAME`` or ``user:SUBJECT``. ``user_id`` is the tenant; None means that an
    operator's key acts for nobody. ``role`` is the role of Postgres in which the caller acts: ``gristmill_service`` or
    ``gristmill_operator``.
    """

    name: str
    user_id: UUID | None
    scopes: frozenset[str]
    role: str
    key_id: UUID | None

    @property
    def counted_as(self) -> str:
        """The key under which all limits count the requests of this caller."""
        return str(self.key_id or self.name)


class Authenticator(Protocol):
    """Finds the caller of a request."""

    async def authenticate(self, header: str | None) -> Caller:
        """Return the caller that the header ``Authorization`` names; raise Unauthenticated if it names none.

        A revoked key is refused within a second.
        """
