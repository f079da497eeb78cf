"""What the fourth generation adds to the guards of the third: text put into the functions as they are in the database.

So it does not matter which revision, of which package, made them. Each addition stands between two marks, by which it
is taken out again. Pure: it changes texts and runs nothing.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from migrations.kernel.v3.guards import HAS_ROOM
from migrations.kernel.v3.table import literal, literals

BEGIN, END = "/*v4{*/", "/*}v4*/"
_ADDED = re.compile(re.escape(BEGIN) + r".*?" + re.escape(END), re.DOTALL)
# Further actions, which a session may say, are counted as one: they must not make the counts grow.
ACTIONS = (
    *("enqueue", "claim", "complete", "retry", "snooze", "release", "fail", "rescue"),
    *("cancel", "expire", "decide", "give"),
)
_DELTAS = "INSERT INTO runtime.count_deltas (stage, old_state, new_stage, new_state, action, jobs, moved_at)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attached:
    """A job table as the database describes it: quoted names of columns, and the stage of each state but the ends.

    ``last`` is the stage of a job that ended in no known state.
    """

    name: str
    status: str
    error_message: str
    initial: str
    terminal: Sequence[str]
    stages: Mapping[str, str]
    last: str
    gives_notices: bool

    def stage_of(self, state: str, otherwise: str) -> str:
        """Return a SQL expression for the stage of a job in ``state``, itself an expression."""
        cases = " ".join(f"WHEN {literal(one)} THEN {literal(stage)}" for one, stage in sorted(self.stages.items()))
        return f"CASE {state} {cases} ELSE {otherwise} END"


def is_extended(guard: str) -> bool:
    """Tell whether a guard has the additions."""
    return BEGIN in guard


def without_additions(guard: str) -> str:
    """Return a guard as the third generation made it."""
    return _ADDED.sub("", guard)


def insert_guard(t: Attached, guard: str) -> str:
    """Return the guard of inserts, which also counts the new jobs."""
    stage = literal(t.stages[t.initial])
    return _after(
        guard,
        r"IF NOT FOUND THEN RETURN NULL; END IF;",
        f"""
      {_DELTAS}
      SELECT {stage}, NULL, {stage}, {literal(t.initial)}, 'enqueue', count(*), v_at FROM new_rows;""",
    )


def update_guard(t: Attached, guard: str) -> str:
    """Return the guard of updates, which also counts the moved jobs and writes the notices of those that ended."""
    guard = _after(guard, r"RETURNING (?=old_state, new_state, change_action, job_id, version_to)", "stage, ")
    action = f"CASE WHEN change_action = ANY (ARRAY[{literals(ACTIONS)}]) THEN change_action ELSE 'other' END"
    guard = _after(
        guard,
        r"old_state, new_state, change_action, job_id, version_to\s*\)",
        f""", counted AS (
        {_DELTAS}
        SELECT stage, old_state, {t.stage_of("new_state", "stage")}, new_state, {action}, count(*), v_at
          FROM moved WHERE new_state <> old_state GROUP BY 1, 2, 3, 4, 5)""",
    )
    if not t.gives_notices:
        return guard
    return _after(
        guard, r"IF v_done IS NOT NULL THEN PERFORM runtime\.tell_done\('[^']*', v_done\); END IF;", _notices(t)
    )


def _notices(t: Attached) -> str:
    """Return the statements that write a notice of each ended job that has a callback or that somebody asked for."""
    old, new = f"o.{t.status}::text", f"n.{t.status}::text"
    stage = t.stage_of(old, literal(t.last))
    asked = f"(i.stages IS NULL OR {stage} = ANY (i.stages))"
    return f"""
      IF v_done IS NOT NULL AND (EXISTS (SELECT FROM new_rows WHERE callback_url IS NOT NULL)
                                 OR EXISTS (SELECT FROM runtime.notice_interests)) THEN
        INSERT INTO runtime.notices (job_id, stage, table_name, status, version, owner_id, callback_url, ended_at)
        SELECT n.id, {stage}, {literal(t.name)}, {new}, n.version, n.owner_id, n.callback_url, n.completed_at
          FROM old_rows AS o JOIN new_rows AS n ON n.id = o.id
         WHERE {new} = ANY (ARRAY[{literals(t.terminal)}]) AND {new} <> {old}
           AND (n.callback_url IS NOT NULL
                OR EXISTS (SELECT FROM runtime.notice_interests AS i WHERE i.owner_id = n.owner_id AND {asked})
                OR EXISTS (SELECT FROM runtime.notice_interests AS i WHERE i.owner_id IS NULL
                            AND (i.every_owner OR n.owner_id IS NULL) AND {asked}));
        IF FOUND AND EXISTS (SELECT FROM runtime.dispatcher WHERE listening) AND {HAS_ROOM} THEN
          PERFORM pg_notify('gristmill_notice', '');
        END IF;
      END IF;"""


def _after(guard: str, place: str, addition: str) -> str:
    """Return ``guard`` with ``addition`` after the one match of ``place``; raise where there is none, or several."""
    found = list(re.finditer(place, guard))
    if len(found) != 1:
        raise RuntimeError(f"a guard of the third generation must have {place!r} once, got {len(found)}")
    end = found[0].end()
    return f"{guard[:end]}{BEGIN}{addition}{END}{guard[end:]}"
