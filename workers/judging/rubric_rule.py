"""The rule that answers a rubric if no provider is configured. It counts; it does not judge.

It compares a profile with the words of each criterion (``features.py``). Its scores separate full profiles from empty
ones, always with the same result and without a network. They say nothing about quality. Pure.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from workers.judging import features
from workers.judging.prompts import read_section
from workers.runtime.handler.ports import Message
from workers.runtime.handler.rule_based import NOTE

MIN_WORDS = 30
MAX_REPETITION = 0.4
MAX_QUOTES, MAX_QUOTE_CHARACTERS = 3, 160
MAX_MISSING_NAMED = 5
POINTS_PER_FORBIDDEN_TERM = 15.0


def score_by_rule(messages: Sequence[Message]) -> dict[str, Any]:
    """Answer a question that has the sections ``<criteria>`` and ``<profile>`` (name, attributes).

    The answer has ``overall``, ``criteria`` and ``flags``. Raises Permanent if a section is missing.
    """
    return evaluate(read_section("criteria", messages), read_section("profile", messages))


def evaluate(criteria: Sequence[Mapping[str, Any]], profile: Mapping[str, Any]) -> dict[str, Any]:
    """Score ``profile`` by each criterion; the same input always gives the same result.

    The key terms of a criterion are the words of its description. If it has none, they are the words of its name.
    """
    read = features.read_passages(profile.get("attributes") or {})
    forbidden, amount = features.forbidden_terms(read), features.amount(read)
    scored = [_score(criterion, read, amount, forbidden) for criterion in criteria]
    weights = [float(criterion.get("weight", 1)) for criterion in criteria]
    overall = sum(weight * score["score"] for weight, score in zip(weights, scored, strict=True)) / (sum(weights) or 1)
    return {"overall": round(overall, 1), "criteria": scored, "flags": _flags(read, amount, forbidden)}


def _score(
    criterion: Mapping[str, Any],
    profile: Sequence[features.ProfilePassage],
    amount: features.Amount,
    forbidden: Sequence[str],
) -> dict[str, Any]:
    key_terms = features.terms_of(criterion.get("description", "")) or features.terms_of(criterion["name"])
    measured = features.measure(key_terms, profile)
    # A short text, or a text in other words or another language, still gets points for its amount.
    by_amount = measured.score < amount.score * (1 - 0.5 * measured.repetition)
    shown = amount.score * (1 - 0.5 * measured.repetition) if by_amount else measured.score
    return {
        "name": criterion["name"],
        "score": max(0.0, round(shown, 1) - POINTS_PER_FORBIDDEN_TERM * len(forbidden)),
        "evidence": features.snippets(key_terms, profile, at_most=MAX_QUOTES, width=MAX_QUOTE_CHARACTERS),
        "reasoning": _rationale(measured, amount, forbidden, terms=len(key_terms), by_amount=by_amount),
    }


def _rationale(
    measured: features.Features,
    amount: features.Amount,
    forbidden: Sequence[str],
    *,
    terms: int,
    by_amount: bool,
) -> str:
    """Return the features that explain a score."""
    parts = [] if amount.words else ["nothing to judge: no text beside the name"]
    if by_amount:
        parts.append(
            f"says little to the point: scored by its amount alone, at most {features.MAX_SCORE_BY_AMOUNT:g} "
            f"({amount.words} word{'s' if amount.words != 1 else ''}, {amount.specifics} specifics)"
        )
    parts += [
        f"coverage {measured.coverage:.2f} ({len(measured.found)} of {terms} key terms)",
        f"specificity {measured.specificity:.2f}",
        f"structure {measured.structure:.2f}",
        f"length {measured.length:.2f}",
        f"repetition {measured.repetition:.2f}",
    ]
    if measured.missing:
        parts.append(f"not mentioned: {', '.join(measured.missing[:MAX_MISSING_NAMED])}")
    if forbidden:
        parts.append(f"forbidden: {', '.join(forbidden)}")
    return f"{NOTE}: {'; '.join(parts)}"


def _flags(profile: Sequence[features.ProfilePassage], amount: features.Amount, forbidden: Sequence[str]) -> list[str]:
    if not profile:
        return ["no evidence"]
    words = [word for passage in profile for word in passage.words]
    flags = [f"forbidden term: {term}" for term in forbidden]
    if amount.all_words < MIN_WORDS:
        flags.append("little evidence")
    if features.repetition(words) > MAX_REPETITION:
        flags.append("repetitive text")
    return flags
