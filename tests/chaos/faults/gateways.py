"""Gateways that are killed or stopped or lose Postgres, and keys that are revoked."""

import time

from tests.chaos.arena import START_SECONDS, Arena
from tests.chaos.faults import fault
from tests.support.proving.gateway import GRACE_SECONDS

KILLS = 3
# A probe waits three seconds for Postgres, and may be a second old.
MAX_RED_SECONDS, MAX_GREEN_SECONDS = 5.0, 5.0
AWAY_SECONDS = 2.0
MAX_REVOKED_SECONDS = 1.0
# What runs is finished within the grace; a stop without work takes less.
MAX_STOP_SECONDS = GRACE_SECONDS + 1.0
READY, UNAVAILABLE, UNAUTHENTICATED = 200, 503, 401
PROBE, ROUTE = "/readyz", "/v1/stages"


@fault()
def gateway_killed(arena: Arena) -> None:
    """SIGKILL of a gateway among requests and streams, three times:

    a request that is repeated makes no second job, and a stream goes on at another gateway without a gap.
    """
    for _ in range(KILLS):
        arena.draw.choice(arena.crew.of("gateway")).role.kill()
        arena.rest(arena.draw.uniform(0.2, 1.0))
        _await_ready(arena)


@fault(brief=False)
def gateways_drained_in_turn(arena: Arena) -> None:
    """Each gateway is stopped by SIGTERM and replaced, one after the other:

    each ends with status 0 within its grace and one second, and clients lose nothing.
    """
    for post in arena.crew.of("gateway"):
        role = post.role
        stopped_at = time.monotonic()
        role.terminate()
        code = role.exit_code(within=START_SECONDS)
        arena.promise(code == 0, f"gateway {role.pid} ended with status {code}")
        arena.promise_within(time.monotonic() - stopped_at, MAX_STOP_SECONDS, "a gateway stops")
        _await_ready(arena)


@fault()
def gateways_lose_postgres(arena: Arena) -> None:
    """No gateway can reach Postgres:

    each says that it is not ready and answers 503 with a time to come back; all are ready again in seconds, by
    themselves.
    """
    _, key = arena.front.make_key("operate:read")
    with arena.gateway_proxy.refusing():
        lost_at = time.monotonic()
        arena.wait(lambda: arena.front.statuses(PROBE) == {UNAVAILABLE}, "no gateway is ready", seconds=START_SECONDS)
        arena.promise_within(time.monotonic() - lost_at, MAX_RED_SECONDS, "gateways without Postgres are not ready")
        for answer in arena.front.answers(ROUTE, key):
            arena.promise(answer is not None, "without Postgres a gateway does not answer")
            assert answer is not None
            arena.promise(answer.status_code == UNAVAILABLE, f"without Postgres the answer is {answer.status_code}")
            arena.promise("retry-after" in answer.headers, "the answer does not say when to come back")
        arena.rest(AWAY_SECONDS)
    back_at = time.monotonic()
    _await_ready(arena)
    arena.promise_within(time.monotonic() - back_at, MAX_GREEN_SECONDS, "gateways are ready again")


@fault()
def key_revoked(arena: Arena) -> None:
    """An operator revokes a key that is in use: every gateway refuses it within a second."""
    name, key = arena.front.make_key("operate:read")
    arena.wait(
        lambda: arena.front.statuses(ROUTE, key) == {READY}, "the key opens every gateway", seconds=START_SECONDS
    )
    arena.front.revoke_key(name)
    revoked_at = time.monotonic()
    arena.wait(
        lambda: arena.front.statuses(ROUTE, key) == {UNAUTHENTICATED}, "every gateway refuses it", seconds=START_SECONDS
    )
    arena.promise_within(time.monotonic() - revoked_at, MAX_REVOKED_SECONDS, "a revoked key is refused everywhere")


def _await_ready(arena: Arena) -> None:
    arena.wait(lambda: arena.front.statuses(PROBE) == {READY}, "every gateway is ready", seconds=START_SECONDS)
