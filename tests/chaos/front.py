"""The gateways of the arena: their addresses, what they answer, and the keys for them."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TypeVar
from uuid import UUID

import httpx2

from local.embedded.ports import choose_port
from tests.support.callers import TESTER, bearer, make_key
from workers.runtime.database import Database
from workers.runtime.operate.api_keys import revoke_key

T = TypeVar("T")
ANSWER_SECONDS = 10.0
NO_ANSWER = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """``urls`` are those of the gateways. Keys are made on a direct connection to ``database_url``."""

    urls: Sequence[str]
    database_url: str
    _numbers: "count[int]"

    @classmethod
    def of(cls, database_url: str, *, gateways: int) -> "Front":
        """Choose a free port for each gateway."""
        urls = [f"http://127.0.0.1:{choose_port()}" for _ in range(gateways)]
        return cls(urls=urls, database_url=database_url, _numbers=count(1))

    def answers(self, path: str, key: str | None = None) -> list[httpx2.Response | None]:
        """Return the answer of each gateway to a GET; None if there is none."""
        return [self._get(f"{url}{path}", key) for url in self.urls]

    def statuses(self, path: str, key: str | None = None) -> set[int]:
        """Return the statuses of :meth:`answers`; 0 for none."""
        return {NO_ANSWER if answer is None else answer.status_code for answer in self.answers(path, key)}

    def make_key(self, *scopes: str, acts_for: UUID | None = None) -> tuple[str, str]:
        """Make a key; return its name and the key."""
        name = f"chaos-{next(self._numbers)}"
        made = self._run(lambda database: make_key(database, name, *scopes, acts_for=acts_for))
        return name, made.secret

    def revoke_key(self, name: str) -> None:
        """Revoke a key like an operator."""

        async def revoke(database: Database) -> None:
            async with database.kernel() as conn:
                await revoke_key(conn, name, TESTER)

        self._run(revoke)

    def _run(self, act: Callable[[Database], Awaitable[T]]) -> T:
        async def run() -> T:
            database = Database(self.database_url, changed_by="chaos", pool_size=1)
            try:
                return await act(database)
            finally:
                await database.close()

        return asyncio.run(run())

    @staticmethod
    def _get(url: str, key: str | None) -> httpx2.Response | None:
        try:
            return httpx2.get(url, headers=bearer(key) if key else {}, timeout=ANSWER_SECONDS)
        except httpx2.HTTPError:
            return None
