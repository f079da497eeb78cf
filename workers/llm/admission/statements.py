"""The statements of admission and what travels in them: many calls as JSON, their answers as one value. No decision."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic_core import to_json

from workers.llm.admission.prices import Price
from workers.llm.calls import Call
from workers.llm.kept.settling import AnswerToKeep, answers_json
from workers.runtime.database import Raw

# What a path is: who asks whom, for whom. Calls that have the same are under the same limits and budgets.
PathKey = tuple[Any, ...]
_PATH = ("provider", "model", "stage", "owner_id", "project_id", "profile_id", "lane")
_MAX_INTEGER = 2**31 - 1

_ADMIT = "SELECT llm.admit(%(paths)s::jsonb, %(calls)s::jsonb, %(worker)s::uuid, %(asker)s, %(turn)s, %(again)s)::text"
_SETTLE = "SELECT llm.settle_calls(%(paths)s::jsonb, %(settles)s::jsonb) -> 'warned'"
_SETTLE_AND_KEEP = f"{_SETTLE}, llm.keep_answers(%(answers)s::jsonb)"


def storable_count(tokens: int | None) -> int | None:
    """Return a count as a row can hold it."""
    return None if tokens is None else min(max(tokens, 0), _MAX_INTEGER)


def path_key(call: Call) -> PathKey:
    """Return the path of ``call``."""
    who = call.caller
    return (call.provider, call.model, who.stage, who.owner_id, who.project_id, who.profile_id, call.lane)


@dataclass(frozen=True, slots=True)
class Question:
    """A call that asks to be reserved, at its price. ``cached``: it was answered already and is only recorded."""

    call: Call
    price: Price | None
    cached: Mapping[str, Any] | None = None

    def row(self, path: int) -> dict[str, Any]:
        """Return what the statement reads of it; what is left out is null."""
        call, who, price = self.call, self.call.caller, self.price
        row: dict[str, Any] = {
            "id": call.id,
            "path": path,
            "route": call.route,
            "step": call.step,
            "kind": call.kind,
            "input": storable_count(call.input_tokens),
            "output": storable_count(call.output_tokens),
        }
        if who.job_id is not None:
            row |= {"job_id": who.job_id, "version": who.version, "attempt": who.attempt}
        if call.batch_id is not None:
            row["batch_id"] = call.batch_id
        if price is not None:
            row |= {
                "usd": price.most_of(call),
                "input_price": price.input_per_million,
                "cached_price": price.cached_input_per_million,
                "output_price": price.output_per_million,
            }
        return {**row, **self.cached} if self.cached is not None else row


@dataclass(frozen=True, slots=True)
class Answered:
    """What became of a statement's calls: when they were reserved, and by place why others were not."""

    at: datetime
    found: Mapping[int, datetime]
    refused: Mapping[int, Mapping[str, Any]]
    warned: Sequence[Mapping[str, Any]]


async def admit(
    conn: Raw, questions: Sequence[Question], *, worker: UUID | None, asker: UUID | None, turn: int, again: bool
) -> Answered:
    """Reserve what ``questions`` ask for, those before the others; places in the answer count from 0."""
    paths, numbers = paths_of(question.call for question in questions)
    rows = [question.row(numbers[path_key(question.call)]) for question in questions]
    values = {
        "paths": paths,
        "calls": to_json(rows).decode(),
        "worker": worker,
        "asker": asker,
        "turn": turn,
        "again": again,
    }
    row = await (await conn.execute(_ADMIT, values)).fetchone()
    assert row is not None
    told = json.loads(row[0])
    causes = told["causes"]
    return Answered(
        at=datetime.fromisoformat(told["at"]),
        found={int(place) - 1: datetime.fromisoformat(at) for place, at in (told["found"] or {}).items()},
        refused={place - 1: causes[by] for place, by in zip(told["refused"], told["by"], strict=True)},
        warned=told["warned"] or (),
    )


async def settle(
    conn: Raw, ends: Sequence[tuple[Call, Mapping[str, Any]]], *, answers: Sequence[AnswerToKeep] = ()
) -> Sequence[Mapping[str, Any]]:
    """Record what became of these calls, in the order of their ids, and keep these answers to them.

    Return the budgets that have passed a threshold.
    """
    paths, _ = paths_of(call for call, _ in ends)
    values = {"paths": paths, "settles": to_json([end for _, end in ends]).decode()}
    if answers:
        values["answers"] = answers_json(answers)
    row = await (await conn.execute(_SETTLE_AND_KEEP if answers else _SETTLE, values)).fetchone()
    return (row and row[0]) or ()


def paths_of(calls: Iterable[Call]) -> tuple[str, dict[PathKey, int]]:
    """Return the different paths of ``calls`` as JSON, and their numbers, from 1."""
    numbers: dict[PathKey, int] = {}
    for call in calls:
        numbers.setdefault(path_key(call), len(numbers) + 1)
    return to_json([dict(zip(_PATH, key, strict=True)) for key in numbers]).decode(), numbers
