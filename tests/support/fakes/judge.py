"""Answers of a scripted judge."""

from typing import Any


def said(**scores: float) -> dict[str, Any]:
    """Return an answer with these points for the criteria, of a hundred each."""
    given = [{"name": name, "score": score, "evidence": ["here"], "reasoning": "so"} for name, score in scores.items()]
    return {"overall": sum(scores.values()) / len(scores), "criteria": given, "flags": []}
