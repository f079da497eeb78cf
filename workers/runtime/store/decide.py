"""Decide the waits of jobs: one guarded UPDATE for many decisions, each under its job's version."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from typing import Any
from uuid import UUID

from psycopg.rows import dict_row
from pydantic_core import to_json

from models.lifecycle import Job
from workers.runtime.actor import Actor, acting_on
from workers.runtime.database import Raw
from workers.runtime.failpoints import failpoint
from workers.runtime.refusals import Conflict, Forbidden, NotFound, Problem, Refusal, quoted
from workers.runtime.store.tables import JobTable, job_table, tickets
from workers.runtime.store.waiting import AS_TEXT, deadline_of, in_list, leave, still_waits


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One decision about the wait that a job was in at ``version``: the job goes to the state ``into``.

    If that state is another wait, ``until`` is its deadline, as a time or counted from the decision; without ``until``,
    the lifecycle says how long the wait lasts. ``values`` are JSON values of the domain's attributes to set with the
    decision. The history keeps ``reason``, or the actor's reason if there is none.
    """

    job_id: UUID
    version: int
    into: str
    reason: str | None = None
    until: datetime | timedelta | None = None
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Decided:
    """The result of one decision. ``status`` and ``version`` are those that the job has now; None if it is gone.

    A decision that lost has a ``refusal``: it says who decided what and when, or how else the wait ended.
    """

    decision: Decision
    status: str | None
    version: int | None
    refusal: Refusal | None = None

    @property
    def won(self) -> bool:
        return self.refusal is None


@cache
def _decide_sql(t: JobTable, attributes: tuple[str, ...]) -> str:
    c, cycle = t.column, t.lifecycle
    values = "".join(f", {c[name]} = v.{c[name]}" for name in attributes)
    source = f"CROSS JOIN LATERAL jsonb_populate_record(NULL::{t.name}, u.row_values) AS v" if attributes else ""
    decides = " ".join(
        f"WHEN '{wait.state}' THEN u.target IN ({in_list(frozenset(wait.decides))})" for wait in cycle.waits
    )
    return f"""
        UPDATE {t.name} AS j
           SET {leave(t, into="u.target", until="coalesce(u.until, now() + make_interval(secs => u.lasts))")},
               {c["error_message"]} = CASE WHEN u.target IN ({in_list(cycle.bad)}) THEN u.reason END,
               {c["change_action"]} = 'decide', {c["change_reason"]} = u.reason{values}
          FROM jsonb_to_recordset(%(rows)s::jsonb) AS u(
                 place int, job_id uuid, version int, target text, reason text, until timestamptz, lasts float8,
                 row_values jsonb)
               {source}
         WHERE j.{c["id"]} = ANY (%(ids)s::uuid[]) AND j.{c["id"]} = u.job_id AND j.{c["version"]} = u.version
           AND {still_waits(t, deadline="ahead")} AND CASE j.{c["status"]}::text {decides} END
        RETURNING u.place"""


async def decide(conn: Raw, model: type[Job], decisions: Sequence[Decision], *, actor: Actor) -> list[Decided]:
    """Apply these decisions, each under its job's version, in the name of ``actor``; return the result of each.

    If two decisions, or a decision and the expiry, compete for one wait, exactly one wins. A decision after the
    deadline loses, even if the wait has not been expired yet. A job that a decision makes ready is dispatched at once.
    All decisions are committed together: in the caller's transaction if there is one.
    """
    t = job_table(model)
    invalid = {place: problem for place, one in enumerate(decisions) if (problem := _problem(t, one))}
    async with conn.transaction(), acting_on(conn, actor, change_action="decide", change_reason=""):
        failpoint("decide.before")
        won: set[int] = set()
        for attributes, places in _by_attributes(decisions, without=invalid.keys()).items():
            won |= await _apply(conn, t, attributes, [(place, decisions[place]) for place in places], actor)
        failpoint("decide.after")
    lost = [(place, one) for place, one in enumerate(decisions) if place not in won]
    verdicts = await _explain(conn, t, [one for _, one in lost]) if lost else []
    refused = {place: verdict for (place, _), verdict in zip(lost, verdicts, strict=True)}
    return [
        Decided(one, one.into, one.version + 1)
        if place in won
        else Decided(one, *refused[place][:2], invalid.get(place, refused[place][2]))
        for place, one in enumerate(decisions)
    ]


def _problem(t: JobTable, one: Decision) -> Refusal | None:
    """Return why this decision is invalid for every job of the table; None if it is valid."""
    known = sorted({state for wait in t.lifecycle.waits for state in wait.decides})
    if one.into not in known:
        rule = f"must be one of {', '.join(known)}"
        return Refusal(Problem("decision", rule, quoted(one.into)))
    wait = t.lifecycle.wait(one.into)
    if wait and one.until is None and wait.lasts is None:
        return Refusal(Problem("until", f"is required for the wait {wait.state!r}", "nothing"))
    if isinstance(one.until, datetime) and one.until.tzinfo is None:
        return Refusal(Problem("until", "must have a time zone", quoted(one.until.isoformat())))
    return None


def _by_attributes(decisions: Sequence[Decision], *, without: Any) -> dict[tuple[str, ...], list[int]]:
    """Group the places of the decisions by the attributes that they set: each group is one statement."""
    found: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for place, one in enumerate(decisions):
        if place not in without:
            found[tuple(sorted(one.values))].append(place)
    return found


async def _apply(
    conn: Raw, t: JobTable, attributes: tuple[str, ...], ones: Sequence[tuple[int, Decision]], actor: Actor
) -> set[int]:
    """Apply decisions in id order, so that two sessions cannot deadlock; return the places of those that won."""
    ordered = sorted(ones, key=lambda one: one[1].job_id)
    rows = to_json([_fields(t, place, one, actor) for place, one in ordered]).decode()
    cursor = await conn.execute(_decide_sql(t, attributes), {"rows": rows, "ids": [one.job_id for _, one in ordered]})
    return {place for (place,) in await cursor.fetchall()}


def _fields(t: JobTable, place: int, one: Decision, actor: Actor) -> dict[str, Any]:
    wait, until = t.lifecycle.wait(one.into), one.until
    lasts = until if isinstance(until, timedelta) else wait.lasts if wait else None
    return {
        "place": place,
        "job_id": str(one.job_id),
        "version": one.version,
        "target": one.into,
        "reason": one.reason or actor.change_reason or f"decided: {one.into}",
        "until": until.isoformat() if isinstance(until, datetime) else None,
        "lasts": None if lasts is None else lasts / timedelta(seconds=1),
        "row_values": {t.column[name].strip('"'): value for name, value in one.values.items()},
    }


@cache
def _explain_sql(t: JobTable) -> str:
    c = t.column
    stages = ", ".join(f"'{step.stage}'" for step in t.lifecycle.steps)
    return f"""
        SELECT u.place, j.{c["status"]}::text AS status, j.{c["version"]} AS version,
               {AS_TEXT.format("j." + deadline_of(t))} AS deadline,
               j.{deadline_of(t)} <= clock_timestamp() AS is_over, h.change_action AS action, h.new_state AS into,
               h.changed_by AS by, {AS_TEXT.format("h.created_at")} AS at
          FROM unnest(%(ids)s::uuid[], %(versions)s::int[], %(places)s::int[]) AS u (id, version, place)
          JOIN {t.name} AS j ON j.{c["id"]} = u.id AND j.{c["id"]} = ANY (%(ids)s::uuid[])
          LEFT JOIN runtime.transitions AS h
            ON h.job_id = u.id AND h.version_to = u.version + 1 AND h.stage IN ({stages})"""


async def _explain(conn: Raw, t: JobTable, lost: Sequence[Decision]) -> list[tuple[str | None, int | None, Refusal]]:
    """Return the current state and version of each job, and why the decision lost."""
    cursor = conn.cursor(row_factory=dict_row)
    places = list(range(len(lost)))
    await cursor.execute(_explain_sql(t), {**tickets([(one.job_id, one.version) for one in lost]), "places": places})
    found = {row["place"]: row for row in await cursor.fetchall()}
    return [
        (None, None, NotFound(f"job {one.job_id} does not exist (any more)"))
        if (row := found.get(place)) is None
        else (row["status"], row["version"], Conflict(_verdict(t, one, row)))
        for place, one in enumerate(lost)
    ]


async def explain_refusal(conn: Raw, model: type[Job], one: Decision) -> Decided:
    """Return why this decision was refused, which another statement has tried."""
    t = job_table(model)
    status, version, refusal = (await _explain(conn, t, [one]))[0]
    wait = t.lifecycle.wait(status) if status else None
    if wait and version == one.version and one.into in wait.decides and "a decision leads to" in str(refusal):
        refusal = Forbidden(f"job {one.job_id} waits for {wait.waits_for}, which this caller may not decide")
    return Decided(one, status, version, _problem(t, one) or refusal)


def _verdict(t: JobTable, one: Decision, row: Mapping[str, Any]) -> str:
    """Return one line that says how the wait ended instead."""
    now = f"it is {t.lifecycle.public_name(row['status'])} now"
    into = t.lifecycle.public_name(row["into"]) if row["into"] else ""
    if row["version"] != one.version:
        match row["action"]:
            case "decide":
                return f"job {one.job_id} was decided by {row['by']} at {row['at']}: {into}; {now}"
            case "expire":
                return f"the wait of job {one.job_id} expired at {row['at']}; {now}"
            case "cancel":
                return f"job {one.job_id} was cancelled by {row['by']} at {row['at']}"
        return f"job {one.job_id} has version {row['version']}, not {one.version}; {now}"
    wait = t.lifecycle.wait(row["status"])
    if wait is None:
        return f"job {one.job_id} waits for no decision; {now}"
    if row["is_over"]:
        return f"the wait of job {one.job_id} ended at {row['deadline']}: a decision after its deadline does not count"
    return (
        f"job {one.job_id} waits for {wait.waits_for}: a decision leads to {', '.join(wait.decides)}, got {one.into!r}"
    )
