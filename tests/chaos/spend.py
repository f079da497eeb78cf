"""Check the ledger of calls against the provider's own log, the limits and the budgets. Pure, but for the statements.

The provider logs when each call arrived and what it charges. The ledger has a row for each call, with times from the
clock of Postgres. Everything runs on one machine. A call arrives up to ``WAY_SECONDS`` after its reservation: this is
the allowance for the two clocks and for the way. If a process stands still between the two, its call arrives later; it
is judged as if it had arrived then. Reservations have no allowance: by the clock of Postgres, no window of any position
has more than the limit.
"""

import math
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import groupby
from typing import NamedTuple, Protocol
from uuid import UUID

from tests.chaos.calls import CallVerdict
from tests.chaos.evidence import Call

CLOCKS_SECONDS = 0.05
WAY_SECONDS = 1.0

# All that is read of the ledger. Estimates count until the usage is known; failed and cached calls cost nothing.
ROWS = """
SELECT id, job_id, provider, model, stage, owner_id, project_id, profile_id, kind, lane, state,
       extract(epoch FROM created_at)::float8 AS reserved_at, extract(epoch FROM settled_at)::float8 AS ended_at,
       estimated_input, max_output, estimated_usd, input_tokens, output_tokens, cached_input_tokens,
       input_price, output_price, usd
  FROM llm.calls ORDER BY created_at, id"""
LIMITS = """
SELECT id, provider, model, stage, owner_id, per_owner, measure, at_most, window_seconds,
       extract(epoch FROM created_at)::float8 AS since
  FROM llm.limits WHERE set_by = 'operator'"""
BUDGETS = """
SELECT name, scope, scope_value, usd, tokens, extract(epoch FROM created_at)::float8 AS since
  FROM llm.budgets WHERE "then" = 'stop' AND "window" = 'total'"""
# What the totals must be, without the functions that maintain them.
TOTALS = """
WITH counted AS (
  SELECT *, state = 'reserved' AS held,
         CASE WHEN state IN ('failed', 'cached') THEN 0 ELSE coalesce(usd, estimated_usd, 0) END AS money,
         CASE WHEN state IN ('failed', 'cached') THEN 0
              ELSE coalesce(input_tokens, estimated_input) + coalesce(output_tokens, max_output) END AS amount
    FROM llm.calls),
sums AS (
  SELECT b.id, w.start, coalesce(sum(c.money) FILTER (WHERE c.held), 0) AS reserved_usd,
         coalesce(sum(c.money) FILTER (WHERE NOT c.held), 0) AS spent_usd,
         coalesce(sum(c.amount) FILTER (WHERE c.held), 0) AS reserved_tokens,
         coalesce(sum(c.amount) FILTER (WHERE NOT c.held), 0) AS spent_tokens
    FROM llm.budgets AS b
    JOIN counted AS c ON b.scope_value IS NOT DISTINCT FROM
         CASE b.scope WHEN 'stage' THEN c.stage WHEN 'tenant' THEN c.owner_id::text
                      WHEN 'project' THEN c.project_id::text WHEN 'profile' THEN c.profile_id::text END
   CROSS JOIN LATERAL (SELECT CASE b."window" WHEN 'total' THEN timestamptz 'epoch'
                                   ELSE date_trunc(b."window", c.created_at, b.zone) END) AS w (start)
   GROUP BY b.id, w.start),
judged AS (
  SELECT b.name AS id, (coalesce(s.reserved_usd, 0), coalesce(s.spent_usd, 0), coalesce(s.reserved_tokens, 0),
                        coalesce(s.spent_tokens, 0))
                       IS DISTINCT FROM
                       (coalesce(t.reserved_usd, 0), coalesce(t.spent_usd, 0), coalesce(t.reserved_tokens, 0)::numeric,
                        coalesce(t.spent_tokens, 0)::numeric) AS bad
    FROM sums AS s FULL JOIN llm.budget_totals AS t ON t.budget_id = s.id AND t.window_start = s.start
    JOIN llm.budgets AS b ON b.id = coalesce(s.id, t.budget_id))
SELECT count(*)::int, count(*) FILTER (WHERE bad)::int,
       coalesce((array_agg(id::text ORDER BY id::text) FILTER (WHERE bad))[1:10], '{}') FROM judged"""


class Row(NamedTuple):
    """One row of the ledger; times in seconds since the epoch."""

    id: UUID
    job_id: UUID | None
    provider: str
    model: str
    stage: str | None
    owner_id: UUID | None
    project_id: UUID | None
    profile_id: UUID | None
    kind: str
    lane: str
    state: str
    reserved_at: float
    ended_at: float | None
    estimated_input: int
    max_output: int
    estimated_usd: Decimal | None
    input_tokens: int | None
    output_tokens: int | None
    cached_input_tokens: int | None
    input_price: Decimal | None
    output_price: Decimal | None
    usd: Decimal | None

    def tokens(self, *, known: bool) -> tuple[int, int]:
        """Return the tokens in and out that it counts for, once its end is ``known`` and before."""
        estimated = self.estimated_input, self.max_output
        if not known:
            return estimated
        if self.state in {"failed", "cached"}:
            return 0, 0
        used = self.input_tokens, self.output_tokens
        return tuple(one if one is not None else other for one, other in zip(used, estimated, strict=True))  # type: ignore[return-value]

    def money(self, *, known: bool) -> Decimal:
        """Return the money that it counts for, once its end is ``known`` and before."""
        estimated = self.estimated_usd or Decimal(0)
        if not known:
            return estimated
        if self.state in {"failed", "cached"}:
            return Decimal(0)
        return estimated if self.usd is None else self.usd


class Limit(NamedTuple):
    """One limit that an operator set; ``window_seconds`` is None for calls under way."""

    id: UUID
    provider: str | None
    model: str | None
    stage: str | None
    owner_id: UUID | None
    per_owner: bool
    measure: str
    at_most: int
    window_seconds: int | None
    since: float

    def covers(self, row: Row) -> bool:
        named = (
            (self.provider, row.provider),
            (self.model, row.model),
            (self.stage, row.stage),
            (self.owner_id, row.owner_id),
        )
        return all(wanted is None or wanted == found for wanted, found in named)

    def amount(self, taken: int, given: int) -> int:
        """Return how much a call with these tokens in and out uses of it."""
        return {"input_tokens": taken, "output_tokens": given, "tokens": taken + given}.get(self.measure, 1)

    def __str__(self) -> str:
        return f"{self.at_most} {self.measure} per {self.window_seconds} s" if self.window_seconds else self.measure


class Budget(NamedTuple):
    """One budget without an end that stops calls."""

    name: str
    scope: str
    scope_value: str | None
    usd: Decimal | None
    tokens: int | None
    since: float

    def covers(self, row: Row) -> bool:
        values = {"stage": row.stage, "tenant": row.owner_id, "project": row.project_id, "profile": row.profile_id}
        return self.scope == "all" or str(values[self.scope]) == self.scope_value


def judge_spend(calls: Sequence[Call], rows: Sequence[Row]) -> Iterator[CallVerdict]:
    """Yield the verdict of every rule about the ledger and the provider's log. No job runs any more."""
    chats = [row for row in rows if row.kind == "chat" and row.lane == "normal" and row.state != "cached"]
    reserved = _match(calls, chats)
    yield CallVerdict("every call was reserved", len(calls), _without(calls, reserved))
    paid = [call for call in calls if call.input_tokens is not None]
    charged = _match(paid, [row for row in chats if row.state in {"settled", "unpriced", "orphaned"}])
    yield CallVerdict("every paid call is charged", len(paid), _without(paid, charged))
    settled = [row for row in chats if row.state in {"settled", "unpriced"} and row.input_tokens is not None]
    answered = {row.id: call for call, row in zip(paid, _match(paid, settled), strict=True) if row is not None}
    wrong = [f"{row.job_id}" for row in settled if not _is_charged_as(row, answered.get(row.id))]
    yield CallVerdict("charged as the provider counts", len(settled), wrong)
    yield CallVerdict("reservations end", len(rows), [f"{row.job_id}" for row in rows if row.state == "reserved"])


def _is_charged_as(row: Row, call: Call | None) -> bool:
    """Return whether a row has the tokens of this call, at the prices of its row."""
    if call is None or (row.input_tokens, row.output_tokens) != (call.input_tokens, call.output_tokens):
        return False
    if row.input_price is None:
        return row.usd is None
    taken, given = row.tokens(known=True)
    price = taken * row.input_price + given * (row.output_price or 0)
    return row.cached_input_tokens is not None or row.usd == price / 1_000_000


def _without(calls: Sequence[Call], found: Sequence[Row | None]) -> list[str]:
    return [f"{call.job_id}" for call, row in zip(calls, found, strict=True) if row is None]


def _match(calls: Sequence[Call], rows: Iterable[Row]) -> list[Row | None]:
    """Return for each call a row of its job that no other call has and that was open when the call arrived.

    The most calls that can have a row have one: of the open rows, a call gets the one that ends first. An orphaned row
    stays open: its call may arrive after the client has given it up.
    """
    open_rows: dict[UUID | None, list[tuple[float, Row]]] = defaultdict(list)
    for row in rows:
        lasts = row.state in {"reserved", "orphaned"} or row.ended_at is None
        open_rows[row.job_id].append((math.inf if lasts else row.ended_at or 0.0, row))
    found: dict[int, Row] = {}
    for index, call in sorted(enumerate(calls), key=lambda one: one[1].started_at):
        at, candidates = call.started_at, open_rows[call.job_id]
        fitting = [
            one for one in candidates if one[1].reserved_at <= at + CLOCKS_SECONDS and one[0] >= at - CLOCKS_SECONDS
        ]
        if fitting:
            best = min(fitting, key=lambda one: (one[0], one[1].reserved_at))
            candidates.remove(best)
            found[index] = best[1]
    return [found.get(index) for index in range(len(calls))]


# ── limits ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class Rated(NamedTuple):
    """The verdict about limits, and how often one was used up: a limit that never is proves nothing."""

    verdict: CallVerdict
    full: int


def judge_reservations(rows: Sequence[Row], limits: Sequence[Limit]) -> Rated:
    """In every window, and at every moment, the ledger has no more than each limit: by one clock, without allowance."""
    examined, wrong, full = 0, list[str](), 0
    for limit in limits:
        shares: dict[UUID | None, list[Row]] = defaultdict(list)
        for row in rows:
            if limit.covers(row) and row.lane == "normal" and row.state != "cached":
                shares[row.owner_id if limit.per_owner else None].append(row)
        for share in shares.values():
            judge = _of_windows if limit.window_seconds else _at_once
            for row, used in judge(limit, share):
                if row.reserved_at >= limit.since:
                    examined += 1
                    full += used >= limit.at_most
                    wrong += [f"{row.job_id}: {used} of {limit}"] if used > limit.at_most else []
    return Rated(CallVerdict("reservations within their limits", examined, wrong), full)


def _of_windows(limit: Limit, rows: Sequence[Row]) -> Iterator[tuple[Row, int]]:
    """Yield each row with what its limit has in the window that ends with it, as it was known then."""
    assert limit.window_seconds is not None
    window: deque[Row] = deque()
    for at, admitted in groupby(rows, key=lambda row: row.reserved_at):
        while window and window[0].reserved_at <= at - limit.window_seconds:
            window.popleft()
        ones = list(admitted)
        window.extend(ones)
        used = sum(limit.amount(*row.tokens(known=row.ended_at is not None and row.ended_at < at)) for row in window)
        yield from ((row, used) for row in ones)


def _at_once(_: Limit, rows: Sequence[Row]) -> Iterator[tuple[Row, int]]:
    """Yield each row with the number of calls that were reserved and not ended at that moment."""
    under_way: list[Row] = []
    for at, admitted in groupby(rows, key=lambda row: row.reserved_at):
        ones = list(admitted)
        under_way = [row for row in under_way if row.ended_at is None or row.ended_at > at] + ones
        yield from ((row, len(under_way)) for row in ones)


def judge_rates(
    calls: Sequence[Call], rows: Sequence[Row], limits: Sequence[Limit], stage_of: Mapping[UUID, str]
) -> Rated:
    """By the times and counts of the provider, no window of any position has more than its limit.

    The load has one provider. Limits of owners and of calls under way are judged by the ledger alone.
    """
    found = _match(calls, [row for row in rows if row.kind == "chat" and row.state != "cached"])
    arrived = sorted(
        (call.started_at if row is None else min(call.started_at, row.reserved_at + WAY_SECONDS), index)
        for index, (call, row) in enumerate(zip(calls, found, strict=True))
    )
    examined, wrong, full = 0, list[str](), 0
    for limit in limits:
        if limit.window_seconds is None or limit.per_owner or limit.owner_id:
            continue
        window: deque[tuple[float, int]] = deque()
        used = 0
        for at, index in arrived:
            call = calls[index]
            is_other = limit.model not in {None, call.model} or limit.stage not in {None, stage_of.get(call.job_id)}
            if is_other or at < limit.since:
                continue
            while window and window[0][0] <= at - (limit.window_seconds - WAY_SECONDS):
                used -= window.popleft()[1]
            amount = limit.amount(call.input_tokens or 0, call.output_tokens or 0)
            window.append((at, amount))
            used += amount
            examined += 1
            full += used >= limit.at_most
            wrong += [f"{call.job_id}: {used} of {limit}"] if used > limit.at_most else []
    return Rated(CallVerdict("calls within their rate", examined, wrong), full)


# ── budgets ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def judge_budgets(
    rows: Sequence[Row], budgets: Sequence[Budget], raised: Mapping[str, tuple[float, int]]
) -> CallVerdict:
    """No reservation exceeds a budget. After it, a budget is exceeded by the uncertainty of one reservation at most.

    The uncertainty is what one call cost beyond its estimate.
    """
    examined, wrong = 0, list[str]()
    for budget in budgets:
        until, before = raised.get(budget.name, (0.0, budget.tokens))
        paid = [row for row in rows if budget.covers(row)]
        for unit, bound in ((_tokens, budget.tokens), (Row.money, budget.usd)):
            if bound is None:
                continue
            beyond = max((unit(row, known=True) - unit(row, known=False) for row in paid), default=Decimal(0))
            for at, is_reserved, total, row in _replay(paid, unit):
                limit = Decimal((before if unit is _tokens and at < until else bound) or 0)
                examined += at >= budget.since
                if at >= budget.since and total > limit + (0 if is_reserved else max(beyond, Decimal(0))):
                    wrong.append(f"{row.job_id}: {total} of {limit} of {budget.name}")
    return CallVerdict("no budget is overspent", examined, wrong)


class Unit(Protocol):
    """What a call counts for in a budget, once its end is ``known`` and before."""

    def __call__(self, row: Row, /, *, known: bool) -> Decimal: ...


def _tokens(row: Row, /, *, known: bool) -> Decimal:
    return Decimal(sum(row.tokens(known=known)))


def _replay(rows: Sequence[Row], unit: Unit) -> Iterator[tuple[float, bool, Decimal, Row]]:
    """Yield every change of a total in its order: when, whether it was a reservation, the total after it, its row.

    What is reserved in one statement has one time, and is one change.
    """
    changes: dict[tuple[float, bool], list[Row]] = defaultdict(list)
    for row in rows:
        changes[row.reserved_at, True].append(row)
        if row.ended_at is not None:
            changes[row.ended_at, False].append(row)
    total = Decimal(0)
    for (at, is_reserved), ones in sorted(changes.items(), key=lambda change: change[0]):
        for row in ones:
            total += unit(row, known=False) if is_reserved else unit(row, known=True) - unit(row, known=False)
        yield at, is_reserved, total, ones[-1]
