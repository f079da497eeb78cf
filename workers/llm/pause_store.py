"""The pauses of providers in ``runtime.provider_pauses``, where all worker processes see them."""

from datetime import timedelta

from workers.llm.pauses import Away
from workers.runtime.database import Database
from workers.runtime.handler.errors import one_line
from workers.runtime.refusals import cut

# A pause that nobody has renewed for so long is of another outage: all processes that knew of it have ended.
STALE = timedelta(minutes=15)
REASON_CHARS = 300

# So many pauses of one server are read, and so many rows are kept: tenants choose the models' names.
MAX_PAUSES = 1_000

_FIND = """
    SELECT provider, since, greatest(extract(epoch FROM until - now()), 0)::float8, reason
      FROM runtime.provider_pauses
     WHERE (provider = %(server)s OR starts_with(provider, %(server)s || '|'))
       AND until > now() - make_interval(secs => %(stale)s)
     ORDER BY provider = %(server)s DESC, until DESC LIMIT %(most)s"""
# How long it lasts already decides how long to wait: processes that begin at the same time do not add up.
_BEGIN = """
    WITH gone AS (
      DELETE FROM runtime.provider_pauses WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM runtime.provider_pauses
         WHERE until <= now() - make_interval(secs => %(stale)s) AND provider <> %(provider)s
         LIMIT 100 FOR UPDATE SKIP LOCKED)))
    INSERT INTO runtime.provider_pauses AS p (provider, since, until, reason)
    SELECT %(provider)s, now(), now() + make_interval(secs => greatest(%(asked)s, %(first)s)), %(reason)s
     WHERE (SELECT count(*) FROM runtime.provider_pauses) < %(most)s
        OR EXISTS (SELECT FROM runtime.provider_pauses WHERE provider = %(provider)s)
    ON CONFLICT (provider) DO UPDATE
       SET since = CASE WHEN p.until > now() - make_interval(secs => %(stale)s) THEN p.since ELSE now() END,
           until = greatest(p.until, now() + make_interval(secs => greatest(%(asked)s, %(first)s,
                     least(%(longest)s, CASE WHEN p.until > now() - make_interval(secs => %(stale)s)
                                             THEN extract(epoch FROM now() - p.since)::float8 ELSE 0 END)))),
           probing_until = NULL, reason = excluded.reason
    RETURNING since, extract(epoch FROM until - now())::float8, reason, since = now()"""
_PROBE = """
    WITH mine AS (
      UPDATE runtime.provider_pauses SET probing_until = now() + make_interval(secs => %(lasts)s)
       WHERE provider = %(provider)s AND until <= now() AND coalesce(probing_until, '-infinity') <= now()
      RETURNING since, reason)
    SELECT true, since, 0::float8, reason FROM mine
     UNION ALL
    SELECT false, since, extract(epoch FROM until - now())::float8, reason FROM runtime.provider_pauses
     WHERE provider = %(provider)s AND NOT EXISTS (SELECT FROM mine)"""
# While another process probes, whoever waits looks again after so long.
_PROBED_ELSEWHERE = timedelta(seconds=2)


class SharedPauses:
    """Pauses kept in Postgres, so that all processes wait together and a restart forgets nothing."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, server: str) -> dict[str, Away]:
        """Return the pauses of ``server`` and of its models, by provider."""
        async with self._database.kernel() as conn:
            values = {"server": server, "stale": STALE.total_seconds(), "most": MAX_PAUSES}
            rows = await (await conn.execute(_FIND, values)).fetchall()
        return {row[0]: Away(row[1], timedelta(seconds=row[2]), row[3]) for row in rows}

    async def begin(
        self, provider: str, reason: str, *, asked: timedelta, first: timedelta, longest: timedelta
    ) -> Away | None:
        """Begin or lengthen a pause: by ``asked``, or by as long as it lasts, from ``first`` to ``longest``.

        None if there are too many pauses: this one then holds in its own process.
        """
        values = {
            "provider": provider,
            "reason": cut(one_line(reason), REASON_CHARS),
            "asked": asked.total_seconds(),
            "first": first.total_seconds(),
            "longest": longest.total_seconds(),
            "stale": STALE.total_seconds(),
            "most": MAX_PAUSES,
        }
        async with self._database.kernel() as conn:
            cursor = await conn.execute(_BEGIN, values)
            row = await cursor.fetchone()
        return Away(row[0], timedelta(seconds=row[1]), row[2], begun=row[3]) if row else None

    async def probe(self, provider: str, *, lasts: timedelta) -> Away | bool:
        """Take the one call of a pause that has passed: True. Or return what to wait for; False where it is over."""
        async with self._database.kernel() as conn:
            cursor = await conn.execute(_PROBE, {"provider": provider, "lasts": lasts.total_seconds()})
            row = await cursor.fetchone()
        if row is None:
            return False
        if row[0]:
            return True
        return Away(row[1], max(timedelta(seconds=row[2]), _PROBED_ELSEWHERE), row[3])

    async def release(self, provider: str) -> None:
        """Give back the one call of a pause: it was not made, or nobody waits for its answer."""
        async with self._database.kernel() as conn:
            await conn.execute(
                "UPDATE runtime.provider_pauses SET probing_until = NULL WHERE provider = %(p)s", {"p": provider}
            )

    async def end(self, provider: str) -> None:
        """End the pause of ``provider``."""
        async with self._database.kernel() as conn:
            await conn.execute("DELETE FROM runtime.provider_pauses WHERE provider = %(p)s", {"p": provider})
