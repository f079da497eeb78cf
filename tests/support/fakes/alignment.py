"""Answers of a fake model about records and guidelines. They are valid and depend only on the record."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

VERDICTS = ("aligned", "partly", "not_aligned")


def answer(messages: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return a judgement or a report, as the sections of the messages ask; None for another question."""
    text = "\n".join(str(message["content"]) for message in messages)
    if record := _section("record", text):
        return judgement(record, _section("passages", text) or [])
    if facts := _section("facts", text):
        return {"summary": f"{facts['judged']} were judged.", "recommendations": ["Go on."]}
    return None


def judgement(record: Mapping[str, Any], passages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a verdict and ratings computed from the record, citing its first passage and one that does not exist."""
    seed = hashlib.sha256(record["content"].encode()).digest()
    return {
        "reasoning": "Made up by a fake.",
        "verdict": VERDICTS[seed[0] % 3],
        "cited": [*(one["number"] for one in passages[:1]), 9_999],
        "realism": 1 + seed[1] % 7,
        "quality": 1 + seed[2] % 7,
    }


def record_in(request: Mapping[str, Any]) -> str | None:
    """Return the content of the record in a request, or None for another question."""
    record = _section("record", "\n".join(str(message["content"]) for message in request["messages"]))
    return None if record is None else str(record["content"])


def _section(name: str, text: str) -> Any:
    found = re.search(rf"<{name}>\n(.*?)\n</{name}>", text, re.DOTALL)
    return json.loads(found[1]) if found else None
