"""The functions and triggers that guard a job table, second generation. Rendered per table, so that plans are cached.

Beside what the first generation refuses: a claim without a ticket, a run without a lease, attempts that come back,
facts that are rewritten, a failed job that skips a step. A guard runs for its own table only, so that nobody borrows
its rights by a trigger on a table of his own.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from migrations.kernel.v2.lifecycle import JobTable

_DEFINER = """
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET enable_hashjoin = on SET enable_mergejoin = on SET enable_seqscan = on
"""
_INVOKER = "LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp"

_OWN_TABLE = """
    IF TG_RELID <> '{name}'::regclass AND NOT EXISTS (
        SELECT FROM pg_inherits WHERE inhrelid = TG_RELID AND inhparent = '{name}'::regclass) THEN
      RAISE EXCEPTION '% guards {name}, not %', TG_NAME, TG_RELID::regclass USING ERRCODE = 'insufficient_privilege';
    END IF;
"""

_SAID = """
    v_by text := coalesce(nullif(current_setting('gristmill.changed_by', true), ''), session_user);
    v_reason text := nullif(current_setting('gristmill.change_reason', true), '');
    v_action text := nullif(current_setting('gristmill.change_action', true), '');
    v_context jsonb := nullif(current_setting('gristmill.context', true), '')::jsonb;
    v_ip inet := nullif(current_setting('gristmill.ip_address', true), '')::inet;
    v_agent text := nullif(current_setting('gristmill.user_agent', true), '');
    v_at timestamptz := clock_timestamp();
"""

# `worker:…` and the like are names of our processes: history says who claimed one of them without being one.
_HONEST = """
    IF v_by LIKE '%:%' AND NOT runtime.is_trusted() THEN
      v_by := runtime.caller_role() || ' as ' || v_by;
    END IF;
    v_by := left(v_by, 255);
"""

_HISTORY = """
    INSERT INTO runtime.transitions (job_id, version_to, created_at, version_from, stage, old_state, new_state,
                                     changed_by, change_reason, change_action, context, ip_address, user_agent)
"""

_RING = """
    IF v_ring AND EXISTS (SELECT FROM runtime.dispatcher WHERE listening) THEN
      PERFORM pg_notify('gristmill_work', '{name}');
    END IF;
"""


def insert_guard(t: "JobTable") -> str:
    """Return the function that admits only fresh jobs and records their first transition."""
    return f"""
    CREATE OR REPLACE FUNCTION {t.schema}.guard_{t.table}_insert() RETURNS trigger {_DEFINER} AS $guard$
    DECLARE
      v_bad record;
      v_ring boolean := true;
      {_SAID}
    BEGIN
      {_OWN_TABLE.format(name=t.name)}
      {_HONEST}
      SELECT n.id, n.{t.status}::text AS state, n.version, n.retry_count INTO v_bad FROM new_rows AS n
       WHERE n.{t.status}::text <> '{t.steps[0].ready}' OR n.version <> 1 OR n.dispatched_at IS NOT NULL
          OR n.retry_count <> 0 OR n.lease_owner IS NOT NULL LIMIT 1;
      IF FOUND THEN
        RAISE EXCEPTION 'a new job of {t.name} must be {t.steps[0].ready}, fresh and unclaimed, got % version %',
          v_bad.state, v_bad.version USING ERRCODE = 'check_violation',
          DETAIL = format('job %s with %s attempts', v_bad.id, v_bad.retry_count);
      END IF;
      {_HISTORY}
      SELECT n.id, 1, v_at, NULL, '{t.steps[0].stage}', NULL, n.{t.status}::text,
             v_by, coalesce(n.change_reason, v_reason), coalesce(n.change_action, v_action, 'enqueue'),
             v_context, v_ip, v_agent
        FROM new_rows AS n;
      IF NOT FOUND THEN RETURN NULL; END IF;
      {_RING.format(name=t.name)}
      RETURN NULL;
    END $guard$
    """


def _facts(t: "JobTable", row: str) -> str:
    """Return the facts of a row that change with its version or not at all."""
    names = ["id", "version", f"{t.status}::text", "retry_count", "started_at", "completed_at", "lease_owner"]
    names += [t.created_at, "owner_id", "idempotency_key", *(["ended_in"] if t.has_several_steps else [])]
    return ", ".join(f"{row}.{name}" for name in names)


def _fixed(t: "JobTable", row: str) -> str:
    return ", ".join(f"{row}.{name}" for name in (t.created_at, "owner_id", "idempotency_key"))


def _rules(t: "JobTable") -> list[tuple[str, str]]:
    """Return what is refused of a move from row ``o`` to row ``n``: condition and rule, both SQL; the first counts."""
    ready = ", ".join(f"'{state}'" for state in t.ready)
    running = ", ".join(f"'{state}'" for state in t.running)
    done = ", ".join(f"'{step.done}'" for step in t.steps)
    terminal = ", ".join(f"'{state}'" for state in t.terminal)
    legal = ", ".join(f"'{pair}'" for pair in t.transitions)
    old, new = f"o.{t.status}::text", f"n.{t.status}::text"
    rules = [
        ("o.id IS NULL OR n.id IS NULL", "'its id cannot change'"),
        (
            "n.version <> o.version + 1",
            "format('its version must grow by one, got %s after %s', n.version, o.version)",
        ),
        (f"{old} = {new} AND {old} = ANY (ARRAY[{terminal}])", f"format('%s is final', {old})"),
        (
            f"{old} <> {new} AND {old} || '>' || {new} <> ALL (ARRAY[{legal}])",
            f"format('%s cannot become %s', {old}, {new})",
        ),
        (f"({_fixed(t, 'o')}) IS DISTINCT FROM ({_fixed(t, 'n')})", "'its owner, key and creation cannot change'"),
        (
            "n.retry_count NOT IN (o.retry_count, o.retry_count + 1)",
            "format('its retry_count grows by one or not at all, got %s after %s', n.retry_count, o.retry_count)",
        ),
        (
            f"{old} = ANY (ARRAY[{terminal}]) AND {new} <> {old} AND n.retry_count = o.retry_count",
            "'a retry costs an attempt: retry_count must grow by one'",
        ),
        (
            f"{new} = ANY (ARRAY[{running}]) AND {old} = ANY (ARRAY[{ready}]) AND o.dispatched_at IS NULL",
            "'it has no ticket: only a dispatched job can be claimed'",
        ),
    ]
    if not t.run_by_services:
        rules.append(
            (
                f"{new} = ANY (ARRAY[{running}]) AND n.lease_owner IS NULL",
                "'a claim has a lease_owner'",
            )
        )
        rules.append(
            (
                f"{old} = ANY (ARRAY[{running}]) AND {new} = ANY (ARRAY[{done}]) AND o.lease_owner IS NULL",
                "'nobody has it on lease, so nobody can complete it'",
            )
        )
    if t.has_several_steps:
        at = " ".join(
            f"WHEN o.ended_in IN ('{step.ready}', '{step.running}') THEN {n}" for n, step in enumerate(t.steps)
        )
        goes_to = " ".join(f"WHEN {new} = '{step.ready}' THEN {n}" for n, step in enumerate(t.steps))
        rules.append(
            (
                f"{old} = ANY (ARRAY[{terminal}]) AND (CASE {goes_to} END) > (CASE {at} ELSE 0 END)",
                f"format('it ended in %s and cannot go on at %s', o.ended_in, {new})",
            )
        )
    return rules


def update_guard(t: "JobTable") -> str:
    """Return the function that refuses what no lifecycle allows, records each transition, and wakes who must know.

    A row's own action and reason count when this statement changed them, else what the session said. A run whose
    job is moved by anyone but its holder is announced on ``gristmill_fence``.
    """
    running = ", ".join(f"'{state}'" for state in t.running)
    old, new = f"o.{t.status}::text", f"n.{t.status}::text"
    changed = "(n.change_action, n.change_reason) IS DISTINCT FROM (o.change_action, o.change_reason)"
    refusals = "\n".join(
        f"WHEN {condition} THEN runtime.refuse_transition('{t.name}', coalesce(o.id, n.id), {rule})"
        for condition, rule in _rules(t)
    )
    return f"""
    CREATE OR REPLACE FUNCTION {t.schema}.guard_{t.table}_update() RETURNS trigger {_DEFINER} AS $guard$
    DECLARE
      v_ring boolean;
      v_foreign boolean;
      {_SAID}
    BEGIN
      {_OWN_TABLE.format(name=t.name)}
      {_HONEST}
      WITH moved AS (
        {_HISTORY}
        SELECT n.id,
               CASE {refusals}
                    ELSE n.version END,
               v_at, o.version, {t.stage_in(old, "o.ended_in")}, {old}, {new}, v_by,
               CASE WHEN {changed} THEN n.change_reason ELSE v_reason END,
               CASE WHEN {changed} THEN n.change_action ELSE v_action END,
               v_context, v_ip, v_agent
          FROM old_rows AS o FULL JOIN new_rows AS n ON n.id = o.id
         WHERE ({_facts(t, "o")}) IS DISTINCT FROM ({_facts(t, "n")})
        RETURNING old_state, new_state, change_action
      )
      SELECT bool_or(new_state <> ALL (ARRAY[{running}])),
             bool_or(old_state = ANY (ARRAY[{running}]) AND (v_by NOT LIKE 'worker:%' OR change_action = 'cancel'))
        INTO v_ring, v_foreign FROM moved;
      {_RING.format(name=t.name)}
      IF v_foreign THEN
        PERFORM pg_notify('gristmill_fence', o.lease_owner || ' ' || o.id)
           FROM old_rows AS o JOIN new_rows AS n ON n.id = o.id
          WHERE {old} = ANY (ARRAY[{running}]) AND n.version <> o.version AND o.lease_owner IS NOT NULL
            AND v_by <> 'worker:' || o.lease_owner;
      END IF;
      RETURN NULL;
    END $guard$
    """


def row_functions(t: "JobTable") -> str:
    """Return the functions behind the row triggers, and the one that tells whose a row is."""
    functions = f"""
    CREATE FUNCTION {t.schema}.owner_of_{t.table}(j {t.name}) RETURNS uuid LANGUAGE sql STABLE
      SET search_path = pg_catalog, pg_temp AS $owner$
      -- Whose the thing is that the job works on; if it is nobody's, who acts.
      SELECT {t.owner_of("j")}
    $owner$;

    CREATE FUNCTION {t.schema}.touch_{t.table}() RETURNS trigger {_INVOKER} AS $touch$
    BEGIN
      NEW.{t.updated_at} := now();
      RETURN NEW;
    END $touch$;
    """
    if t.owner:
        functions += f"""
    CREATE FUNCTION {t.schema}.own_{t.table}() RETURNS trigger {_INVOKER} AS $own$
    BEGIN
      NEW.owner_id := {t.owner_of("NEW")};
      RETURN NEW;
    END $own$;
    """
    if t.payload or t.results:
        functions += f"""
    CREATE FUNCTION {t.schema}.keep_{t.table}() RETURNS trigger {_INVOKER} AS $keep$
    BEGIN
      RAISE EXCEPTION 'job % of {t.name}: %', OLD.id, TG_ARGV[0] USING ERRCODE = 'check_violation';
    END $keep$;
    """
    if t.has_several_steps:
        functions += f"""
    CREATE FUNCTION {t.schema}.note_end_of_{t.table}() RETURNS trigger {_INVOKER} AS $note$
    BEGIN
      NEW.ended_in := CASE WHEN NEW.completed_at IS NOT NULL THEN OLD.{t.status} END;
      RETURN NEW;
    END $note$;
    """
    return functions


def trigger_function_names(t: "JobTable") -> list[str]:
    """Return the names of the functions that :func:`row_functions` makes for triggers."""
    names = [f"{t.schema}.touch_{t.table}"]
    if t.owner:
        names.append(f"{t.schema}.own_{t.table}")
    if t.payload or t.results:
        names.append(f"{t.schema}.keep_{t.table}")
    if t.has_several_steps:
        names.append(f"{t.schema}.note_end_of_{t.table}")
    return names


def row_triggers(t: "JobTable", table: str) -> dict[str, str]:
    """Return the row triggers of ``table`` by name. Each has a WHEN or a column list: the kernel's own statements call

    none of their functions. Triggers of one kind run in the order of their names.
    """
    name = f"{t.schema}.{table}"
    touching = [t.status, "version", "priority", "progress", "retry_count", "max_retries", "timeout_seconds"]
    touching += [t.error_message, "completed_at", *t.payload, *t.results]
    triggers = {
        "gristmill_touch": f"""
            CREATE TRIGGER gristmill_touch BEFORE UPDATE OF {", ".join(touching)} ON {name}
            FOR EACH ROW WHEN (NEW.{t.updated_at} IS NOT DISTINCT FROM OLD.{t.updated_at})
            EXECUTE FUNCTION {t.schema}.touch_{t.table}()""",
    }
    if t.owner:
        triggers["gristmill_own"] = f"""
            CREATE TRIGGER gristmill_own BEFORE INSERT ON {name}
            FOR EACH ROW EXECUTE FUNCTION {t.schema}.own_{t.table}()"""
    if t.payload:
        triggers["gristmill_keep_payload"] = f"""
            CREATE TRIGGER gristmill_keep_payload AFTER UPDATE OF {", ".join(t.payload)} ON {name}
            FOR EACH ROW WHEN ({_differ(t.payload)})
            EXECUTE FUNCTION {t.schema}.keep_{t.table}('what was asked cannot change')"""
    if t.results:
        triggers["gristmill_keep_results"] = f"""
            CREATE TRIGGER gristmill_keep_results AFTER UPDATE OF {", ".join(t.results)} ON {name}
            FOR EACH ROW WHEN (OLD.completed_at IS NOT NULL AND {_differ(t.results)})
            EXECUTE FUNCTION {t.schema}.keep_{t.table}('the results of a job that ended cannot change')"""
    if t.has_several_steps:
        triggers["gristmill_note_end"] = f"""
            CREATE TRIGGER gristmill_note_end BEFORE UPDATE OF completed_at ON {name}
            FOR EACH ROW WHEN ((OLD.completed_at IS NULL) <> (NEW.completed_at IS NULL))
            EXECUTE FUNCTION {t.schema}.note_end_of_{t.table}()"""
    return triggers


def _differ(columns: "Sequence[str]") -> str:
    old, new = (", ".join(f"{row}.{column}" for column in columns) for row in ("OLD", "NEW"))
    return f"(({old}) IS DISTINCT FROM ({new}))"


def cancel_statement(t: "JobTable") -> str:
    """Return what ``runtime.cancel`` runs for this table: $1 job, $2 reason, $3 whether the caller is trusted."""
    live = ", ".join(f"'{state}'" for state in (*t.ready, *t.running))
    progress = "100" if t.ends_at_full_progress else "j.progress"
    return f"""
        UPDATE {t.name} AS j
           SET {t.status} = '{t.cancelled}'::{t.status_type}, version = j.version + 1, completed_at = now(),
               {t.updated_at} = now(), {t.due_at} = NULL, dispatched_at = NULL, deadline_at = NULL,
               progress = {progress}, change_action = 'cancel', change_reason = $2
         WHERE j.id = $1 AND j.{t.status}::text IN ({live}) AND ($3 OR {t.may_cancel})
    """
