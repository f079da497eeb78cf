"""The two trigger functions that guard a job table. Rendered per table, so that their plans are cached and static.

Statement level with transition tables: a quarter to a third cheaper than row level in batches, and one
``runtime.transitions`` insert per statement. They are SECURITY DEFINER, so that a role that may change a job needs no
right to write history; they set their own planner switches, because the kernel pins its sessions to nested loops.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from migrations.kernel.v1.lifecycle import JobTable

_FUNCTION = """
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET enable_hashjoin = on SET enable_mergejoin = on SET enable_seqscan = on
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
    CREATE FUNCTION {t.schema}.guard_{t.table}_insert() RETURNS trigger {_FUNCTION} AS $guard$
    DECLARE
      v_bad record;
      v_ring boolean := true;
      {_SAID}
    BEGIN
      SELECT n.id, n.{t.status}::text AS state, n.version, n.dispatched_at INTO v_bad FROM new_rows AS n
       WHERE n.{t.status}::text <> '{t.steps[0].ready}' OR n.version <> 1 OR n.dispatched_at IS NOT NULL LIMIT 1;
      IF FOUND THEN
        RAISE EXCEPTION 'a new job of {t.name} must be {t.steps[0].ready}, version 1 and undispatched, got % version %',
          v_bad.state, v_bad.version USING ERRCODE = 'check_violation', DETAIL = 'job ' || v_bad.id;
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


def update_guard(t: "JobTable") -> str:
    """Return the function that refuses what no lifecycle allows, records each transition, and wakes who must know.

    A row's own action and reason count when this statement changed them, else what the session said. A run whose
    job is moved by anyone but its holder is announced on ``gristmill_fence``.
    """
    legal = ", ".join(f"'{pair}'" for pair in t.transitions)
    running = ", ".join(f"'{state}'" for state in t.running)
    terminal = ", ".join(f"'{state}'" for state in t.terminal)
    old, new = f"o.{t.status}::text", f"n.{t.status}::text"
    changed = "(n.change_action, n.change_reason) IS DISTINCT FROM (o.change_action, o.change_reason)"
    return f"""
    CREATE FUNCTION {t.schema}.guard_{t.table}_update() RETURNS trigger {_FUNCTION} AS $guard$
    DECLARE
      v_ring boolean;
      v_foreign boolean;
      {_SAID}
    BEGIN
      WITH moved AS (
        {_HISTORY}
        SELECT n.id,
               CASE WHEN o.id IS NULL OR n.id IS NULL
                      THEN runtime.refuse_transition('{t.name}', coalesce(o.id, n.id), 'its id cannot change')
                    WHEN n.version <> o.version + 1
                      THEN runtime.refuse_transition('{t.name}', n.id,
                             format('its version must grow by one, got %s after %s', n.version, o.version))
                    WHEN {old} = {new} AND {old} = ANY (ARRAY[{terminal}])
                      THEN runtime.refuse_transition('{t.name}', n.id, format('%s is final', {old}))
                    WHEN {old} <> {new} AND {old} || '>' || {new} <> ALL (ARRAY[{legal}])
                      THEN runtime.refuse_transition('{t.name}', n.id, format('%s cannot become %s', {old}, {new}))
                    ELSE n.version END,
               v_at, o.version, {t.stage_of(old)}, {old}, {new}, v_by,
               CASE WHEN {changed} THEN n.change_reason ELSE v_reason END,
               CASE WHEN {changed} THEN n.change_action ELSE v_action END,
               v_context, v_ip, v_agent
          FROM old_rows AS o FULL JOIN new_rows AS n ON n.id = o.id
         WHERE (o.id, o.version, {old}) IS DISTINCT FROM (n.id, n.version, {new})
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
