"""What a scripted judge says."""

from typing import Any


def said(**scores: float) -> dict[str, Any]:
    """Return an answer that gives each criterion these points of a hundred."""
    given = [{"name": name, "score": score, "evidence": ["here"], "reasoning": "so"} for name, score in scores.items()]
    return {"overall": sum(scores.values()) / len(scores), "criteria": given, "flags": []}
