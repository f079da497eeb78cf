"""What owners and operators do with endpoints: make, list, change, test and delete them, and replace their secrets.

A secret is shown once, when it is made. The database shows each caller its own endpoints, and no secret to a service.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg.errors import CheckViolation
from sqlalchemy.ext.asyncio import AsyncSession

from workers.notifications.refusals import CallbackError, UnknownEndpoint
from workers.notifications.rules import CallbackRules, check_url
from workers.outbound.signatures import new_secret
from workers.runtime.actor import NOBODY, Actor, acting, acting_on
from workers.runtime.cursors import make_cursor, read_cursor
from workers.runtime.database import Raw, raw_of
from workers.runtime.refusals import Problem, Refusal, StaleVersion, quoted

MAX_STAGES = 100
# How long the secret before the new one still signs.
OVERLAP, MAX_OVERLAP = timedelta(days=1), timedelta(days=30)
_COLUMNS = (
    "id, owner_id, every_owner, url, stages, version, disabled_at, disabled_reason, consecutive_failures, "
    "first_failure_at, previous_until, created_at, created_by"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointView:
    """An endpoint. ``stages`` None means every stage. ``owner_id`` None means the operators.

    Until ``previous_until`` the secret before the present one signs too.
    """

    id: UUID
    owner_id: UUID | None
    every_owner: bool
    url: str
    stages: Sequence[str] | None
    version: int
    disabled_at: datetime | None
    disabled_reason: str | None
    consecutive_failures: int
    first_failure_at: datetime | None
    previous_until: datetime | None
    created_at: datetime
    created_by: str


@dataclass(frozen=True, slots=True)
class NewSecret:
    """A new secret, which nobody can read again. ``endpoint`` is None for one-off addresses."""

    endpoint: EndpointView | None
    secret: str = field(repr=False)
    previous_until: datetime | None


async def create_endpoint(
    conn: Raw,
    actor: Actor,
    *,
    rules: CallbackRules,
    url: str,
    stages: Sequence[str] | None = None,
    every_owner: bool = False,
) -> NewSecret:
    """Make an endpoint of the actor's user (of the operators if it has none); return it with its secret.

    It is told of the jobs that end from now on: all of its owner, or those in ``stages``; with ``every_owner`` (only
    operators) those of all owners. Raise CallbackError for an address that must not be called or an unknown stage.
    """
    check_url(url, allow=rules.allow)
    secret = new_secret()
    values: dict[str, Any] = {"url": url, "stages": await _check_stages(conn, stages)}
    values["secret"] = rules.keyring.encrypt(secret)
    if every_owner:  # a column that services cannot set
        values["every_owner"] = True
    try:
        async with conn.transaction(), acting_on(conn, actor):
            cursor = await conn.execute(
                f"""INSERT INTO notifications.endpoints ({", ".join(values)})
                    VALUES ({", ".join(f"%({name})s" for name in values)}) RETURNING {_COLUMNS}""".encode(),  # noqa: S608 - fixed names of columns
                values,
            )
            endpoint = _view(await cursor.fetchone())
    except CheckViolation as error:
        raise _refusal_of(error) from None
    return NewSecret(endpoint, secret, None)


async def list_endpoints(
    conn: Raw, *, limit: int = 50, cursor: str | None = None
) -> tuple[list[EndpointView], str | None]:
    """Return a page of the endpoints that the session may see, in the order of their making, and the next cursor."""
    after = UUID(bytes=read_cursor(cursor, of="endpoints", size=16)) if cursor else None
    found = await conn.execute(
        f"""SELECT {_COLUMNS} FROM notifications.endpoints
             WHERE url IS NOT NULL AND id > coalesce(%(after)s::uuid, '00000000-0000-0000-0000-000000000000')
             ORDER BY id LIMIT %(limit)s""".encode(),  # noqa: S608 - fixed names of columns
        {"after": after, "limit": limit + 1},
    )
    views = [_view(row) for row in await found.fetchall()]
    rest = make_cursor(views[limit - 1].id.bytes, of="endpoints") if len(views) > limit else None
    return views[:limit], rest


async def find_endpoint(conn: Raw, endpoint_id: UUID) -> EndpointView:
    """Return one endpoint; raise UnknownEndpoint."""
    found = await conn.execute(
        f"SELECT {_COLUMNS} FROM notifications.endpoints WHERE id = %(id)s AND url IS NOT NULL".encode(),  # noqa: S608
        {"id": endpoint_id},
    )
    if (row := await found.fetchone()) is None:
        raise UnknownEndpoint(endpoint_id)
    return _view(row)


async def change_endpoint(
    conn: Raw,
    actor: Actor,
    endpoint_id: UUID,
    changes: Mapping[str, Any],
    *,
    rules: CallbackRules,
    version: int | None = None,
) -> EndpointView:
    """Set the ``changes`` among ``url``, ``stages`` and ``enabled``; return the endpoint as it is then.

    An endpoint that is enabled again starts without failures. Deliveries under way follow within a second. Raise
    StaleVersion if it has another version than ``version`` (if given).
    """
    if unknown := sorted(changes.keys() - {"url", "stages", "enabled"}):
        raise CallbackError(Problem(unknown[0], "is not a field of an endpoint"))
    values: dict[str, Any] = {}
    if "url" in changes:
        values["url"] = check_url(changes["url"], allow=rules.allow)
    if "stages" in changes:
        values["stages"] = await _check_stages(conn, changes["stages"])
    sets = [f"{name} = %({name})s" for name in values]
    if "enabled" in changes:
        sets.append("disabled_at = NULL, disabled_reason = NULL" if changes["enabled"] else _DISABLE)
    if not sets:
        return await _check_version(conn, endpoint_id, version)
    return await _update(conn, actor, endpoint_id, ", ".join(sets), values, version=version)


# The trigger puts the time of the database, and who did it if nobody says why.
_DISABLE = (
    "disabled_at = coalesce(disabled_at, now()), disabled_reason = coalesce(disabled_reason, "
    "nullif(left(current_setting('gristmill.change_reason', true), 500), ''), 'disabled by its owner')"
)


async def rotate_secret(
    conn: Raw,
    actor: Actor,
    endpoint_id: UUID,
    *,
    rules: CallbackRules,
    overlap: timedelta = OVERLAP,
    version: int | None = None,
) -> NewSecret:
    """Replace the secret and return the new one. For ``overlap`` messages have a signature by each of both."""
    _check_overlap(overlap)
    secret = new_secret()
    values = {"secret": rules.keyring.encrypt(secret), "overlap": overlap}
    sets = "secret = %(secret)s, previous_until = clock_timestamp() + %(overlap)s::interval"
    endpoint = await _update(conn, actor, endpoint_id, sets, values, version=version)
    return NewSecret(endpoint, secret, endpoint.previous_until)


async def replace_one_off_secret(
    conn: Raw, actor: Actor, *, rules: CallbackRules, overlap: timedelta = OVERLAP
) -> NewSecret:
    """Make or replace the secret that signs what goes to the ``callback_url`` of jobs of the actor's user; return it.

    Without a user it is that of the operators' jobs. For ``overlap`` the secret before, if there is one, signs too.
    """
    _check_overlap(overlap)
    secret = new_secret()
    values = {"secret": rules.keyring.encrypt(secret), "overlap": overlap}
    async with conn.transaction(), acting_on(conn, actor):
        # A service has not the right to read a secret, which ON CONFLICT DO UPDATE would need.
        for _ in range(2):
            updated = await conn.execute(
                b"""UPDATE notifications.endpoints
                       SET secret = %(secret)s, previous_until = clock_timestamp() + %(overlap)s::interval
                     WHERE url IS NULL AND (owner_id = runtime.actor_id() OR
                                            (owner_id IS NULL AND runtime.actor_id() IS NULL))
                    RETURNING previous_until""",
                values,
            )
            if (row := await updated.fetchone()) is not None:
                return NewSecret(None, secret, row[0])
            made = await conn.execute(
                b"INSERT INTO notifications.endpoints (secret) VALUES (%(secret)s) ON CONFLICT DO NOTHING", values
            )
            if made.rowcount:
                break
    return NewSecret(None, secret, None)


async def delete_endpoint(conn: Raw, actor: Actor, endpoint_id: UUID, *, version: int | None = None) -> None:
    """Delete an endpoint. Its deliveries that wait are cancelled when they are due. Its changes stay on record."""
    await find_endpoint(conn, endpoint_id)
    async with conn.transaction(), acting_on(conn, actor):
        done = await conn.execute(
            b"SELECT notifications.delete_endpoint(%(id)s, %(version)s)", {"id": endpoint_id, "version": version}
        )
        row = await done.fetchone()
    if not (row and row[0]):
        await _check_version(conn, endpoint_id, version)
        raise UnknownEndpoint(endpoint_id)


async def ping_endpoint(conn: Raw, actor: Actor, endpoint_id: UUID) -> UUID:
    """Enqueue a test message to an endpoint, also to a disabled one: one attempt. Return the id of the delivery."""
    async with conn.transaction(), acting_on(conn, actor):
        row = await (await conn.execute(b"SELECT notifications.ping(%(id)s)", {"id": endpoint_id})).fetchone()
    if row is None or row[0] is None:
        raise UnknownEndpoint(endpoint_id)
    delivery_id: UUID = row[0]
    return delivery_id


async def reencrypt_secrets(session: AsyncSession, *, keyring: Any, actor: Actor = NOBODY) -> int:
    """Encrypt every secret of every endpoint again with the first key; return how many. For operators.

    If no key decrypts one of them, change none.
    """
    conn = await raw_of(session)
    done = 0
    async with acting(session, actor), session.begin_nested():
        await conn.execute(b"SELECT set_config('gristmill.change_action', 'reencrypt', true)")
        found = await conn.execute(
            b"SELECT id, secret, previous_secret FROM notifications.endpoints ORDER BY id FOR NO KEY UPDATE"
        )
        for id_, secret, previous in await found.fetchall():
            try:
                tokens = [keyring.rotate(token) if token else None for token in (secret, previous)]
            except Refusal as error:
                raise CallbackError(f"secret of endpoint {id_}: {error}") from None
            await conn.execute(
                b"UPDATE notifications.endpoints SET secret = %s, previous_secret = %s WHERE id = %s", [*tokens, id_]
            )
            done += sum(token is not None for token in tokens)
        await conn.execute(b"SELECT set_config('gristmill.change_action', '', true)")
    return done


async def _update(
    conn: Raw, actor: Actor, endpoint_id: UUID, sets: str, values: Mapping[str, Any], *, version: int | None
) -> EndpointView:
    """Update one endpoint under its version; raise UnknownEndpoint, StaleVersion or CallbackError."""
    try:
        async with conn.transaction(), acting_on(conn, actor):
            done = await conn.execute(
                f"""UPDATE notifications.endpoints SET {sets}
                     WHERE id = %(id)s AND url IS NOT NULL AND version = coalesce(%(version)s, version)
                    RETURNING {_COLUMNS}""".encode(),  # noqa: S608 - fixed names of columns
                {**values, "id": endpoint_id, "version": version},
            )
            row = await done.fetchone()
    except CheckViolation as error:
        raise _refusal_of(error) from None
    if row is None:
        await _check_version(conn, endpoint_id, version)
        raise UnknownEndpoint(endpoint_id)
    return _view(row)


async def _check_version(conn: Raw, endpoint_id: UUID, version: int | None) -> EndpointView:
    """Return the endpoint; raise UnknownEndpoint, or StaleVersion if it has another version."""
    endpoint = await find_endpoint(conn, endpoint_id)
    if version not in {None, endpoint.version}:
        raise StaleVersion(
            f"endpoint {endpoint_id} is at version {endpoint.version}, got version {version}: look at it again"
        )
    return endpoint


async def _check_stages(conn: Raw, stages: Sequence[str] | None) -> list[str] | None:
    """Return the stages once each; raise CallbackError if there are none, too many, or one is unknown."""
    if stages is None:
        return None
    wanted = list(dict.fromkeys(stages))
    if not 1 <= len(wanted) <= MAX_STAGES:
        rule = f"must name 1 to {MAX_STAGES} stages"
        raise CallbackError(Problem("stages", rule, str(len(wanted)), "leave it out for every stage"))
    found = await conn.execute(
        b"SELECT s FROM unnest(%(stages)s::text[]) AS s WHERE s NOT IN (SELECT name FROM runtime.stages) LIMIT 1",
        {"stages": wanted},
    )
    if row := await found.fetchone():
        raise CallbackError(Problem("stages", "must be registered stages", quoted(row[0])))
    return wanted


def _check_overlap(overlap: timedelta) -> None:
    if not timedelta(0) <= overlap <= MAX_OVERLAP:
        rule = f"must be from 0 to {MAX_OVERLAP.days} days"
        raise CallbackError(Problem("overlap", rule, f"{overlap.total_seconds():g} s"))


def _refusal_of(error: CheckViolation) -> CallbackError:
    """Return the refusal for a rule of the table that this module did not check."""
    if error.diag.constraint_name == "ck_endpoints_count":
        remedy = error.diag.message_hint
        return CallbackError(Problem("endpoint", "must be one of at most 50 of its owner", None, remedy))
    if error.diag.constraint_name == "ck_endpoints_every_owner":
        return CallbackError(Problem("every_owner", "must not be given for an endpoint of one user"))
    return CallbackError(error.diag.message_primary or "the database refuses it")


def _view(row: Any) -> EndpointView:
    names = _COLUMNS.split(", ")
    return EndpointView(**dict(zip(names, row, strict=True)))
