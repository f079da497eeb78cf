"""Answers of a scripted judge."""

from typing import Any


def said(**scores: float) -> dict[str, Any]:
    """Return an answer that gives each criterion these points of a hundred, and quotes the subject's name."""
    given = {name: {"evidence": ["name"], "reasoning": "so", "score": score} for name, score in scores.items()}
    return {"criteria": given, "flags": []}
