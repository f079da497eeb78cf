"""Bugs to plant. Each bug changes the source text of a kernel function during a test.

This is the only place that patches our own code, to show that the checker finds the bugs that it claims to find. If the
text that a bug changes does not exist any more, the test fails, and the bug must be adapted.
"""

import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import psycopg
import pytest

from models.lifecycle import Job
from workers.llm import compatible, provider_calls
from workers.llm.provider_calls import ProviderCalls
from workers.runtime.beat import firing
from workers.runtime.store import claim, dispatch, intervene, rescue, settle
from workers.runtime.store.tables import JobTable
from workers.runtime.worker import claims, lane
from workers.runtime.worker.lane import Item, Lane
from workers.runtime.worker.runner import Runner
from workers.runtime.worker.runs import Running
from workers.runtime.worker.settler import Settler


@dataclass(frozen=True)
class Bug:
    """A bug in one function of the kernel: ``changes`` of its text, or a ``whole`` function instead of it."""

    owner: Any
    name: str
    changes: Mapping[str, str] = field(default_factory=dict)
    whole: Callable[..., Any] | None = None

    def plant(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Install the bug until the end of the test."""
        monkeypatch.setattr(self.owner, self.name, self.whole or self._changed())

    def _changed(self) -> Any:
        function = inspect.unwrap(getattr(self.owner, self.name))
        source = textwrap.dedent(inspect.getsource(function))
        for right, wrong in self.changes.items():
            assert source.count(right) == 1, f"{self.name} must contain {right!r} once: adapt this bug"
            source = source.replace(right, wrong)
        namespace: dict[str, Any] = {}
        code = compile(source, f"<{self.name}, damaged>", "exec")
        exec(code, sys.modules[function.__module__].__dict__, namespace)  # noqa: S102 - our own code
        return namespace[self.name]


@dataclass(frozen=True)
class SqlBug:
    """A bug in a function of the schema ``llm``: ``changes`` of its text."""

    function: str
    changes: Mapping[str, str]

    @contextmanager
    def planted(self, url: str) -> Iterator[None]:
        """Install the bug in the database of ``url`` during the block."""
        with psycopg.connect(url, autocommit=True) as connection:
            ((right,),) = connection.execute(
                "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE proname = %s AND pronamespace = 'llm'::regnamespace",
                [self.function],
            ).fetchall()
            wrong = right
            for text, damaged in self.changes.items():
                assert wrong.count(text) == 1, f"llm.{self.function} must contain {text!r} once: adapt this bug"
                wrong = wrong.replace(text, damaged)
            connection.execute(wrong)
            try:
                yield
            finally:
                connection.execute(right)


async def _claim_and_forget(*args: Any, **options: Any) -> list[Job]:
    """Acknowledge a batch, claim it, and lose it."""
    await claim.claim(*args, **options)
    return []


def _submit_without_settle(_: Settler, item: Item) -> None:
    """Report an outcome as settled and do not settle it."""
    item.tell(True)


async def _find_nothing_settled(_: Lane, items: Sequence[Item]) -> set[object]:
    """Treat every settle without an answer as a lost fence."""
    return set()


async def _write_apart(self: Lane, items: Sequence[Item], **_: Any) -> tuple[set[object], set[object]]:
    """Commit the writes of handlers in their own transaction, then settle."""
    for item in items:
        if item.writes:
            async with self._database.session() as session:
                await lane._write_all([item], session)
    async with self._database.kernel() as conn:
        return set(await settle.settle(conn, items[0].model, [item.row for item in items])), set()


def _cancel_without_version(t: JobTable) -> str:
    """Answer like a cancel, but do not change the version."""
    return f"UPDATE {t.name} AS j SET change_reason = %(reason)s WHERE j.id = ANY (%(ids)s) RETURNING j.id"


def _ignore_end(_: Running, why: str) -> None:
    """Ignore the request to end."""


FENCE = {""" AND j.{c["version"]} = u.fence""": ""}
UNVERSIONED = {"""{c["version"]} = j.{c["version"]} + 1""": """{c["version"]} = j.version"""}

NO_FENCE = Bug(settle, "_settle_sql", FENCE)
NO_STATE = Bug(settle, "_settle_sql", FENCE | {"""j.{c["status"]} IN ({running})""": "true"})
WRITTEN_APART = Bug(Lane, "_flush", whole=_write_apart)
NO_SECOND_LOOK = Bug(Lane, "_already_settled", whole=_find_nothing_settled)
SETTLE_FORGOTTEN = Bug(Settler, "submit", whole=_submit_without_settle)
CLAIM_FORGOTTEN = Bug(claims, "claim", whole=_claim_and_forget)
NO_TICKET = Bug(claim, "_claim_sql", {""" AND j.{c["dispatched_at"]} IS NOT NULL""": ""})
ONE_TOO_MANY = Bug(dispatch, "_pick_fairly_sql", {"%(limit)s - coalesce": "%(limit)s + 1 - coalesce"})
TICKETS_KEPT = Bug(
    dispatch, "_unmark_sql", {"<= now() - %(older_than)s": "< now() - interval '1 day' - %(older_than)s"}
)
TICK_IGNORED = Bug(firing, "_fire_times", {"if not store.take_tick(": "if None is store.take_tick("})
ONE_AS_ALL = Bug(firing, "due_times", {"""case "all":""": """case "all" | "one":"""})
SKIP_AS_ALL = Bug(firing, "due_times", {"""case "all":""": """case "all" | "skip":"""})
SKIP_AS_ONE = Bug(firing, "due_times", {"""case "one":""": """case "one" | "skip":"""})
TICK_KEY_OWN = Bug(firing, "_enqueue", {'key = f"schedule:': 'key = f"{id(session)}:'})
LIVING_RESCUED = Bug(
    rescue,
    "_rescue_sql",
    {"> now() - make_interval(secs => greatest(least": "> now() + make_interval(secs => greatest(least"},
)
RESCUE_UNVERSIONED = Bug(rescue, "_rescue_sql", UNVERSIONED)
RESCUE_FREE = Bug(
    rescue, "_rescue_sql", {"""least(j.{c["retry_count"]}::bigint + 1,""": """least(j.{c["retry_count"]}::bigint,"""}
)
CANCEL_UNFENCED = Bug(intervene, "_cancel_sql", whole=_cancel_without_version)
CANCEL_UNVERSIONED = Bug(intervene, "_cancel_sql", UNVERSIONED)
CANCEL_IGNORED = Bug(Running, "end", whole=_ignore_end)
LOSS_NOT_LOGGED = Bug(Runner, "_settle", {"self._events.stale(running.run)": "pass"})
NEW_KEY_EACH_TIME = Bug(compatible, "_idempotency", {"{digest[:16]}": "{asyncio.get_running_loop().time()}"})
KEY_WITHOUT_JOB = Bug(compatible, "_idempotency", {"{run.job_id}-": ""})
KEY_OF_THE_JOB = Bug(compatible, "_idempotency", {"-{digest[:16]}": "-0"})
YOUNG = {"""i.{c["completed_at"]} < now() - %(retention)s""": "true"}
PRUNE_YOUNG = Bug(rescue, "_prune_sql", YOUNG)
PRUNE_WAITING = Bug(rescue, "_prune_sql", YOUNG | {"""i.{c["status"]} IN ({terminal})""": "true"})

# The ledger, limits and budgets of calls.
NOT_RESERVED = Bug(ProviderCalls, "make", {"if self._control is None:": "if self._control is not None:"})
CUT_OFF_IS_FREE = Bug(ProviderCalls, "_account_for", {"charged=may_be_charged(": "charged=False and may_be_charged("})
USAGE_IGNORED = Bug(
    provider_calls, "usage_of", {'count_in(raw, "completion_tokens"': 'count_in({}, "completion_tokens"'}
)
WITHIN_LIMIT = "CONTINUE WHEN l_used[n] + v_need <= l_most[n];"


def unlimited(worker: UUID) -> SqlBug:
    """Return the bug that the calls of one worker are under no limit."""
    return SqlBug("admit", {WITHIN_LIMIT: f"CONTINUE WHEN l_used[n] + v_need <= l_most[n] OR p_worker = '{worker}';"})


LIMIT_OFF_BY_ONE = SqlBug("admit", {WITHIN_LIMIT: "CONTINUE WHEN l_used[n] + v_need <= l_most[n] + 1;"})
BUCKETS_EXPIRE_EARLY = SqlBug("admit", {"BETWEEN k.bucket - 64 AND": "BETWEEN k.bucket - 16 AND"})
BUDGET_IGNORED = SqlBug("admit", {"CONTINUE WHEN NOT v_over;": "CONTINUE;"})
RESERVED_IGNORED = SqlBug("admit", {"coalesce(t.reserved_tokens + t.spent_tokens, 0)": "coalesce(t.spent_tokens, 0)"})
SPENT_TWICE = SqlBug("settle_calls", {"t.spent_usd + t_spent_usd[i]": "t.spent_usd + 2 * t_spent_usd[i]"})
SETTLED_AGAIN = SqlBug("settle_calls", {"(c.state = 'reserved' OR (c.state = 'orphaned' AND": "(true OR (true AND"})
TOTAL_NOT_UPDATED = SqlBug("settle_calls", {"t.spent_tokens + t_spent_tokens[i]": "t.spent_tokens"})
ORPHAN_NOT_COUNTED = SqlBug("counted", {"IN ('failed', 'cached')": "IN ('failed', 'cached', 'orphaned')"})
ORPHAN_KEPT = SqlBug("orphan_calls", {"c.state = 'reserved' AND": "false AND"})
