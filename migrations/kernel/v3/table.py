"""A job table as a revision of the third generation sees it. Pure: it renders SQL expressions and runs nothing."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from migrations.kernel.v1.lifecycle import Step
from migrations.kernel.v2.lifecycle import JobTable as SecondJobTable


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """What ``models.lifecycle.Wait`` says; the table names the column of the deadline."""

    state: str
    waits_for: str
    decides: Sequence[str]
    expires: str
    lasts: timedelta | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobTable(SecondJobTable):
    """A job table as a revision sees it.

    ``waits``, ``ends`` (state: good, bad or neutral) and ``shown_as`` (state: public name) are those of the model's
    lifecycle; ``wait_until`` is the column that holds the deadline of a wait. ``may_decide`` is a SQL condition for the
    row ``j`` under which the acting tenant may decide by ``runtime.decide``; without one no tenant may.
    """

    waits: Sequence[Wait] = ()
    ends: Mapping[str, str] = field(default_factory=dict)
    shown_as: Mapping[str, str] = field(default_factory=dict)
    wait_until: str = "wait_until"
    may_decide: str = "false"

    @property
    def waiting(self) -> list[str]:
        return [wait.state for wait in self.waits]

    @property
    def completed(self) -> str:
        """Where the last step leads or, if that is a wait, the first good end."""
        last = self.steps[-1].done
        return next((end for end, kind in self.ends.items() if kind == "good"), last) if last in self.waiting else last

    @property
    def terminal(self) -> list[str]:
        """Every end. Completed, failed and cancelled stand first, in this order."""
        first = [self.completed, self.failed, self.cancelled]
        return [*first, *(end for end in self.ends if end not in first)]

    @property
    def bad(self) -> list[str]:
        return [self.failed, *(end for end, kind in self.ends.items() if kind == "bad")]

    @property
    def unsuccessful(self) -> list[str]:
        """The ends that are not good."""
        return [self.failed, self.cancelled, *(end for end, kind in self.ends.items() if kind != "good")]

    @property
    def transitions(self) -> list[str]:
        """Every legal transition as ``old>new``, sorted."""
        legal = {(step.ready, new) for step in self.steps for new in (step.running, self.cancelled)}
        legal |= {(self.failed, step.ready) for step in self.steps} | set(self.also)
        for step in self.steps:
            legal |= {(step.running, new) for new in (step.done, step.ready, self.failed, self.cancelled)}
        for wait in self.waits:
            legal |= {(wait.state, new) for new in (*wait.decides, wait.expires, self.cancelled)}
        return sorted(f"{old}>{new}" for old, new in legal)

    @property
    def chosen(self) -> list[str]:
        """The states that a run reaches by completing: where its step leads, and what its handler may choose."""
        return sorted({step.done for step in self.steps} | {new for old, new in self.also if old in self.running})

    def step_of(self, state: str) -> Step | None:
        """Return the step to which a wait belongs: the first one that leads there, itself or by other waits."""
        for step in self.steps:
            if state in self._waits_of(step):
                return step
        return None

    def states_of(self, step: Step) -> list[str]:
        """Return the states in which a job belongs to ``step``: ready, running, and waiting after it."""
        return [step.ready, step.running, *(state for state in self.waiting if self.step_of(state) == step)]

    def _waits_of(self, step: Step) -> Iterator[str]:
        by_state = {wait.state: wait for wait in self.waits}
        reached = [step.done, *(new for old, new in sorted(self.also) if old == step.running)]
        seen: set[str] = set()
        while reached:
            state = reached.pop()
            if state in by_state and state not in seen:
                seen.add(state)
                yield state
                reached += (*by_state[state].decides, by_state[state].expires)

    def stage_of(self, state: str) -> str:
        """Return a SQL expression for the stage that a row in ``state`` (itself an expression) belongs to."""
        cases = " ".join(
            f"WHEN {state} IN ({literals(self.states_of(step))}) THEN {literal(step.stage)}" for step in self.steps
        )
        return f"CASE {cases} ELSE {literal(self.steps[-1].stage)} END"

    def stage_in(self, state: str, ended_in: str) -> str:
        """Return a SQL expression for the stage of a row in ``state``: of an ended one, the stage in which it ended."""
        if not self.has_several_steps:
            return self.stage_of(state)
        return self.stage_of(f"CASE WHEN {state} IN ({literals(self.terminal)}) THEN {ended_in} ELSE {state} END")

    @property
    def all_times(self) -> list[str]:
        """Every column that holds a time."""
        kernel = ("dispatched_at", "deadline_at", "started_at", "completed_at")
        waits = (self.wait_until,) if self.waits else ()
        return [self.due_at, *kernel, self.created_at, self.updated_at, *waits, *self.times]

    def described(self) -> dict[str, dict[str, Any]]:
        """Return each wait as ``runtime.lifecycles`` tells it."""
        return {
            wait.state: {
                "stage": (self.step_of(wait.state) or self.steps[-1]).stage,
                "waits_for": wait.waits_for,
                "decides": list(wait.decides),
                "expires": wait.expires,
                "lasts_seconds": wait.lasts.total_seconds() if wait.lasts else None,
            }
            for wait in self.waits
        }


def literal(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def literals(values: Sequence[str]) -> str:
    return ", ".join(literal(value) for value in values)
