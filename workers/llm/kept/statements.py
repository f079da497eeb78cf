"""The statements of kept answers: many questions and answers as JSON. No decision."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import to_json

from workers.llm.kept.questions import Question
from workers.llm.kept.settling import AnswerToKeep, answers_json, question_row
from workers.runtime.database import Raw

_FIND = "SELECT llm.find_answers(%(questions)s::jsonb)::text"
_KEEP = "SELECT llm.keep_answers(%(answers)s::jsonb)"
_LET_GO = "SELECT llm.let_go(%(questions)s::jsonb)"


async def find_answers(conn: Raw, questions: Sequence[Question]) -> list[Mapping[str, Any]]:
    """Return for each question what is kept, or whether its run asks it."""
    rows = [_row(number, question) for number, question in enumerate(questions, 1)]
    row = await (await conn.execute(_FIND, {"questions": to_json(rows).decode()})).fetchone()
    assert row is not None
    found: list[Mapping[str, Any]] = json.loads(row[0])
    return found


async def keep_answers(conn: Raw, answers: Sequence[AnswerToKeep]) -> None:
    """Keep these answers and let go of their questions."""
    await conn.execute(_KEEP, {"answers": answers_json(answers)})


async def let_go(conn: Raw, questions: Sequence[Question]) -> None:
    """Let go of these questions, which their runs do not ask any more."""
    await conn.execute(_LET_GO, {"questions": to_json(list(map(question_row, questions))).decode()})


def _row(number: int, question: Question) -> dict[str, Any]:
    row: dict[str, Any] = {"n": number, "owner_id": question.caller.owner_id, **question_row(question)}
    if question.share_for is not None:
        row["share_seconds"] = question.share_for.total_seconds()
    return row
