"""A receiver of callbacks that verifies them, a mill that sends them, and rows of deliveries for tests."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from standardwebhooks.webhooks import Webhook

from gristmill_testing.mill import Heard, mill
from gristmill_testing.waiting import until
from tests.support.fakes.web_server import Seen, WebServer, web_server
from tests.support.kernel import Jobs
from tests.support.proving.llm import NoModel
from workers.notifications.endpoints import create_endpoint, replace_one_off_secret
from workers.notifications.rules import CallbackRules
from workers.operations.keyring import Keyring, new_key
from workers.outbound.addresses import parse_networks
from workers.outbound.http import SafeHttp
from workers.runtime.actor import Actor
from workers.runtime.handler.registry import Registry

LOOPBACK = parse_networks(["127.0.0.0/8"])
KEY = new_key()
KEYRING = Keyring([KEY])
RULES = CallbackRules(keyring=KEYRING, allow=LOOPBACK)
TESTER = Actor(changed_by="tester", change_reason="a test")


@dataclass
class Receiver:
    """A real HTTP server; ``secrets`` are those that it knows."""

    web: WebServer
    secrets: list[str] = field(default_factory=list)

    def url(self, path: str = "/hook") -> str:
        return self.web.url(path)

    def answer(self, status: int = 204, path: str = "/hook", body: bytes = b"", **headers: str) -> None:
        self.web.say(path, body, status=status, **headers)

    @property
    def seen(self) -> list[Seen]:
        return self.web.seen

    def verified(self, seen: Seen) -> list[int]:
        """Return the places of the known secrets that verify a message, as the library of the specification says."""
        found = []
        for place, secret in enumerate(self.secrets):
            try:
                Webhook(secret).verify(seen.body, dict(seen.headers))
            except Exception:  # noqa: BLE001, S112 - the library raises many kinds
                continue
            found.append(place)
        return found

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [json.loads(one.body) for one in self.seen]

    @property
    def ids(self) -> list[str]:
        return [one.headers["webhook-id"] for one in self.seen]


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    """A receiver that accepts everything until it is told otherwise."""
    async with web_server() as web:
        receiver = Receiver(web)
        receiver.answer()
        yield receiver


@asynccontextmanager
async def telling(
    url: str, registry: Registry, *, http: SafeHttp | None = None, **options: Any
) -> AsyncIterator[Heard]:
    """A mill whose handlers may call this machine."""
    http = http or SafeHttp(allow=LOOPBACK)
    options = {"poll_seconds": 0.05, "keyring": KEYRING, **options}
    async with mill(url, registry, NoModel(), http=http, **options) as heard:
        yield heard
    await http.aclose()


class Callbacks:
    """Endpoints and deliveries of the test's database."""

    def __init__(self, jobs: Jobs) -> None:
        self.jobs = jobs

    async def endpoint(self, receiver: Receiver, path: str = "/hook", **options: Any) -> UUID:
        """Make an endpoint of the operators at ``receiver``, which learns its secret; return its id."""
        async with self.jobs.database.kernel() as conn:
            made = await create_endpoint(conn, TESTER, rules=RULES, url=receiver.url(path), **options)
        receiver.secrets.append(made.secret)
        assert made.endpoint is not None
        return made.endpoint.id

    async def one_off_secret(self, receiver: Receiver) -> str:
        """Make the secret of one-off addresses of the operators' jobs, which ``receiver`` learns."""
        async with self.jobs.database.kernel() as conn:
            made = await replace_one_off_secret(conn, TESTER, rules=RULES)
        receiver.secrets.append(made.secret)
        return made.secret

    async def rows(self) -> list[dict[str, Any]]:
        return await self.jobs.sql("SELECT * FROM notifications.deliveries ORDER BY id")

    async def states(self) -> list[str]:
        return [row["status"] for row in await self.rows()]

    async def endpoint_row(self, endpoint_id: UUID) -> dict[str, Any]:
        (row,) = await self.jobs.sql("SELECT * FROM notifications.endpoints WHERE id = %s", endpoint_id)
        return row

    async def due_now(self) -> None:
        """Let the next attempts be made at once."""
        await self.jobs.unguarded(
            "UPDATE notifications.deliveries SET due_at = NULL WHERE due_at IS NOT NULL AND status = 'pending'"
        )

    async def until_states(self, *states: str, hurry: bool = False, within: float = 20.0) -> list[dict[str, Any]]:
        """Wait until the deliveries have these states, in their order; return them."""

        async def reached() -> bool:
            if hurry:
                await self.due_now()
            return await self.states() == list(states)

        await until(reached, within=within)
        return await self.rows()

    async def until_attempts(self, count: int, *, within: float = 20.0) -> dict[str, Any]:
        """Wait until the one delivery waits after ``count`` attempts; return it."""

        async def reached() -> bool:
            rows = await self.rows()
            return len(rows) == 1 and len(rows[0]["attempts"]) >= count and rows[0]["status"] != "sending"

        await until(reached, within=within)
        return (await self.rows())[0]
