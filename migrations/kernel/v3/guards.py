"""The guard of updates and the statements on waits, third generation. Rendered per table, so that plans are cached.

Beside what the second generation refuses: a wait that ends otherwise than by a decision, by its deadline or by a
cancel, a decision after the deadline, an expiry before it. It tells who listens which jobs ended or began to wait.
"""

from migrations.kernel.v2 import guards as second
from migrations.kernel.v3.table import JobTable, literal, literals

# A session that listens and stays in its transaction keeps every notification in the server's queue. If the queue is
# full, each commit that notifies fails, and no guard can catch that. So a guard notifies only while there is room: who
# listens also polls, and gets the news a little later.
HAS_ROOM = "pg_notification_queue_usage() < 0.5"
_RING = second._RING.replace("listening) THEN", f"listening) AND {HAS_ROOM} THEN")  # noqa: SLF001 - the frozen text

# What a session says is cut, never refused: a job must be able to end whatever was said of it.
_SAID = """
    v_by text := coalesce(left(nullif(current_setting('gristmill.changed_by', true), ''), 255), session_user);
    v_reason text := left(nullif(current_setting('gristmill.change_reason', true), ''), 2000);
    v_action text := left(nullif(current_setting('gristmill.change_action', true), ''), 100);
    v_context jsonb := runtime.context_of(current_setting('gristmill.context', true));
    v_ip inet := nullif(current_setting('gristmill.ip_address', true), '')::inet;
    v_agent text := left(nullif(current_setting('gristmill.user_agent', true), ''), 1000);
    v_at timestamptz := clock_timestamp();
"""

# Names of our processes, of roles and of people can be claimed: history says who claimed one without being trusted.
_HONEST = """
    IF nullif(current_setting('gristmill.changed_by', true), '') IS NOT NULL AND NOT runtime.is_trusted() THEN
      v_by := left(runtime.caller_role() || ' as ' || v_by, 255);
    END IF;
"""


def insert_guard(t: JobTable) -> str:
    """Return the function that admits only fresh jobs and records their first transition."""
    statement = second.insert_guard(t)
    ring = second._RING.format(name=t.name)  # noqa: SLF001 - as above
    assert ring in statement
    return _with_own_words(statement.replace(ring, _RING.format(name=t.name))).replace(
        "coalesce(n.change_reason, v_reason)", "coalesce(left(n.change_reason, 2000), v_reason)"
    )


def _with_own_words(text: str) -> str:
    """Return a guard of the second generation with what this one makes of the words of a session."""
    for old, new in ((second._SAID, _SAID), (second._HONEST, _HONEST)):  # noqa: SLF001 - as below
        assert text.count(old) == 1
        text = text.replace(old, new)
    return text


def _facts(t: JobTable, row: str) -> str:
    """Return the facts of a row that change with its version or not at all."""
    facts = second._facts(t, row)  # noqa: SLF001 - the frozen generation's text, which this one adds to
    return f"{facts}, {row}.{t.wait_until}" if t.waits else facts


def _rules(t: JobTable) -> list[tuple[str, str]]:
    """Return what is refused of a move from row ``o`` to row ``n``: condition and rule, both SQL; the first counts."""
    rules = [
        (condition, rule)
        for condition, rule in second._rules(t)  # noqa: SLF001 - as above
        if "o.ended_in" not in condition and "nobody has it on lease" not in rule
    ]
    old, new = f"o.{t.status}::text", f"n.{t.status}::text"
    if not t.run_by_services:
        rules.append(
            (
                (
                    f"{old} = ANY (ARRAY[{literals(t.running)}]) AND {new} = ANY (ARRAY[{literals(t.chosen)}]) "
                    "AND o.lease_owner IS NULL"
                ),
                "'nobody has it on lease, so nobody can complete it'",
            )
        )
    if t.has_several_steps:
        at = " ".join(f"WHEN o.ended_in IN ({literals(t.states_of(step))}) THEN {n}" for n, step in enumerate(t.steps))
        goes_to = " ".join(f"WHEN {new} = '{step.ready}' THEN {n}" for n, step in enumerate(t.steps))
        rules.append(
            (
                f"{old} = ANY (ARRAY[{literals(t.terminal)}]) AND (CASE {goes_to} END) > (CASE {at} ELSE 0 END)",
                f"format('it ended in %s and cannot go on at %s', o.ended_in, {new})",
            )
        )
    return [*rules, *_rules_of_waits(t)]


def _rules_of_waits(t: JobTable) -> list[tuple[str, str]]:
    """Return what is refused of a job that waits. A decision began before the deadline, an expiry ends after it."""
    if not t.waits:
        return []
    old, new = f"o.{t.status}::text", f"n.{t.status}::text"
    waits = f"{old} = ANY (ARRAY[{literals(t.waiting)}])"
    leaves = f"{waits} AND {new} <> {old}"
    action = "CASE WHEN (n.change_action, n.change_reason) IS DISTINCT FROM (o.change_action, o.change_reason) "
    action += "THEN n.change_action ELSE v_action END"
    decided = " ".join(f"WHEN {literal(one.state)} THEN {new} IN ({literals(one.decides)})" for one in t.waits)
    expired = " ".join(f"WHEN {literal(one.state)} THEN {new} = {literal(one.expires)}" for one in t.waits)
    too_late = f"format('its wait ended at %s, a decision comes too late', o.{t.wait_until})"
    return [
        (
            f"{leaves} AND coalesce({action}, '') NOT IN ('decide', 'expire', 'cancel')",
            f"format('only a decision, its deadline or a cancel ends the wait %s', {old})",
        ),
        (
            (
                f"{leaves} AND NOT CASE {action} WHEN 'decide' THEN CASE {old} {decided} END "
                f"WHEN 'expire' THEN CASE {old} {expired} END ELSE {new} = {literal(t.cancelled)} END"
            ),
            f"format('the action %s cannot lead from %s to %s', {action}, {old}, {new})",
        ),
        (f"{leaves} AND {action} = 'decide' AND o.{t.wait_until} <= statement_timestamp()", too_late),
        (
            f"{leaves} AND {action} = 'expire' AND o.{t.wait_until} > v_at",
            f"format('its wait lasts until %s', o.{t.wait_until})",
        ),
        (
            (
                f"{waits} AND {new} = {old} AND n.{t.wait_until} <> o.{t.wait_until} "
                f"AND o.{t.wait_until} <= statement_timestamp()"
            ),
            f"format('its wait ended at %s and cannot be extended', o.{t.wait_until})",
        ),
    ]


def update_guard(t: JobTable) -> str:
    """Return the function that refuses what no lifecycle allows, records each transition, and wakes who must know.

    A row's own action and reason count when this statement changed them, or when the session says the same action and
    no reason: two decisions in a row may have the same reason. Else counts what the session said. A run whose
    job is moved by anyone but its holder is announced on ``gristmill_fence``, a job that ends or begins to wait on
    ``gristmill_done``.
    """
    running = literals(t.running)
    old, new = f"o.{t.status}::text", f"n.{t.status}::text"
    changed = "(n.change_action, n.change_reason) IS DISTINCT FROM (o.change_action, o.change_reason)"
    refusals = "\n".join(
        f"WHEN {condition} THEN runtime.refuse_transition('{t.name}', coalesce(o.id, n.id), {rule})"
        for condition, rule in _rules(t)
    )
    return f"""
    CREATE OR REPLACE FUNCTION {t.schema}.guard_{t.table}_update() RETURNS trigger {second._DEFINER} AS $guard$
    DECLARE
      v_ring boolean;
      v_foreign boolean;
      v_done text[];
      {_SAID}
    BEGIN
      {second._OWN_TABLE.format(name=t.name)}
      {_HONEST}
      WITH moved AS (
        {second._HISTORY}
        SELECT n.id,
               CASE {refusals}
                    ELSE n.version END,
               v_at, o.version, {t.stage_in(old, "o.ended_in")}, {old}, {new}, v_by,
               CASE WHEN {changed} OR (v_reason IS NULL AND n.change_action = v_action)
                    THEN left(n.change_reason, 2000) ELSE v_reason END,
               CASE WHEN {changed} THEN n.change_action ELSE v_action END,
               v_context, v_ip, v_agent
          FROM old_rows AS o FULL JOIN new_rows AS n ON n.id = o.id
         WHERE ({_facts(t, "o")}) IS DISTINCT FROM ({_facts(t, "n")})
        RETURNING old_state, new_state, change_action, job_id, version_to
      )
      SELECT bool_or(new_state <> ALL (ARRAY[{running}])),
             bool_or(old_state = ANY (ARRAY[{running}]) AND (v_by NOT LIKE 'worker:%' OR change_action = 'cancel')),
             array_agg(job_id || ':' || version_to) FILTER (
               WHERE new_state = ANY (ARRAY[{literals([*t.terminal, *t.waiting])}]) AND new_state <> old_state)
        INTO v_ring, v_foreign, v_done FROM moved;
      {_RING.format(name=t.name)}
      IF v_done IS NOT NULL THEN PERFORM runtime.tell_done('{t.name}', v_done); END IF;
      IF v_foreign AND {HAS_ROOM} THEN
        PERFORM pg_notify('gristmill_fence', o.lease_owner || ' ' || o.id)
           FROM old_rows AS o JOIN new_rows AS n ON n.id = o.id
          WHERE {old} = ANY (ARRAY[{running}]) AND n.version <> o.version AND o.lease_owner IS NOT NULL
            AND v_by <> 'worker:' || o.lease_owner;
      END IF;
      RETURN NULL;
    END $guard$
    """  # noqa: SLF001 - as above


def cancel_statement(t: JobTable) -> str:
    """Return what ``runtime.cancel`` runs for this table: $1 job, $2 reason, $3 whether the caller is trusted."""
    progress = "100" if t.ends_at_full_progress else "j.progress"
    wait = f"{t.wait_until} = NULL, " if t.waits else ""
    return f"""
        UPDATE {t.name} AS j
           SET {t.status} = '{t.cancelled}'::{t.status_type}, version = j.version + 1, completed_at = now(),
               {t.updated_at} = now(), {t.due_at} = NULL, dispatched_at = NULL, deadline_at = NULL, {wait}
               progress = {progress}, change_action = 'cancel', change_reason = $2
         WHERE j.id = $1 AND j.{t.status}::text IN ({literals([*t.ready, *t.running, *t.waiting])})
           AND ($3 OR {t.may_cancel})
    """


def decide_statement(t: JobTable) -> str:
    """Return what ``runtime.decide`` runs for this table.

    $1 job, $2 version, $3 state, $4 reason, $5 deadline of a further wait, $6 whether the caller is trusted.
    """
    progress = "100" if t.ends_at_full_progress else "j.progress"
    ends = f"$3 IN ({literals(t.terminal)})"
    decides = " ".join(f"WHEN {literal(one.state)} THEN $3 IN ({literals(one.decides)})" for one in t.waits)
    return f"""
        UPDATE {t.name} AS j
           SET {t.status} = $3::{t.status_type}, version = j.version + 1,
               completed_at = CASE WHEN {ends} THEN now() END, {t.updated_at} = now(),
               {t.wait_until} = CASE $3 {lengths(t)} END, progress = CASE WHEN {ends} THEN {progress} ELSE 0 END,
               {t.error_message} = CASE WHEN $3 IN ({literals(t.bad)}) THEN $4 END,
               change_action = 'decide', change_reason = $4
         WHERE j.id = $1 AND j.version = $2 AND j.{t.wait_until} > clock_timestamp()
           AND CASE j.{t.status}::text {decides} END AND ($6 OR {t.may_decide})
    """


def lengths(t: JobTable) -> str:
    """Return the cases that tell the deadline of the wait that a decision leads to: the one given, or by default."""
    return " ".join(
        f"WHEN {literal(one.state)} THEN "
        + (f"coalesce($5, now() + interval '{one.lasts.total_seconds():.6f} s')" if one.lasts else "$5")
        for one in t.waits
    )
