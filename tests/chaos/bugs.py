"""Bugs to plant. Each bug changes the source text of a kernel function during a test.

This is the only place that patches our own code, to show that the checker finds the bugs that it claims to find. If the
text that a bug changes does not exist any more, the test fails, and the bug must be adapted.
"""

import inspect
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from models.lifecycle import Job
from workers.llm import compatible
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
