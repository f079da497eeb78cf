"""Rules that judge a record by the guidelines, and summarise all records, if no provider is configured.

They count the words that a record has in common with the guidelines, and measure how it is written. They cannot decide
whether a record does what a passage requires. The same question always gets the same answer. Pure.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from workers.judging import features
from workers.judging.prompts import read_section
from workers.runtime.handler.ports import Message
from workers.runtime.handler.rule_based import NOTE

LOWEST, HIGHEST = 1, 7
MIN_ALIGNED, MIN_PARTLY = 0.5, 0.28
MAX_CITED_BY_RULE = 3
MAX_NAMED_WORDS = 4


def align_by_rule(messages: Sequence[Message]) -> dict[str, Any]:
    """Answer a question that has the sections ``<passages>`` and ``<record>``; raise Permanent if one is missing."""
    return align(read_section("passages", messages), read_section("record", messages))


def summarise_by_rule(messages: Sequence[Message]) -> dict[str, Any]:
    """Answer a question that has the section ``<facts>``; raise Permanent if it is missing."""
    return summarise(read_section("facts", messages))


def align(passages: Sequence[Mapping[str, Any]], record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a verdict, the passages that share most words with the record, the reasons and both ratings.

    More words of the guidelines, more specific details and more structure never lower the result. Repetition, filler
    and instructions to the judge do.
    """
    read = features.read_passages({"content": record["content"]})
    own = frozenset[str]().union(*(one.terms for one in read)) - features.terms_of("content")
    shared = {one["number"]: own & features.terms_of(one["text"]) for one in passages}
    common = frozenset[str]().union(*shared.values())
    measured = features.measure(own, read)
    forbidden = features.forbidden_terms(read)
    overlap = _saturating(len(common), half=6)
    written = 0.45 * measured.specificity + 0.2 * measured.structure + 0.35 * measured.length
    kept = 1 - measured.repetition
    score = 0.0 if forbidden else (0.6 * overlap + 0.4 * written) * kept
    best = sorted((number for number in shared if shared[number]), key=lambda number: (-len(shared[number]), number))
    return {
        "reasoning": _reasons(sorted(common), measured, forbidden, overlap=overlap),
        "verdict": "aligned" if score >= MIN_ALIGNED else "partly" if score >= MIN_PARTLY else "not_aligned",
        "cited": sorted(best[:MAX_CITED_BY_RULE]),
        "realism": _rating((0.35 + 0.4 * measured.length + 0.25 * measured.specificity) * kept, forbidden),
        "quality": _rating((0.3 * overlap + 0.7 * written) * kept, forbidden),
    }


def summarise(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the counted facts as sentences, with recommendations by rule."""
    judged, verdicts = facts["judged"], facts["verdicts"]
    share = verdicts.get("aligned", 0) / judged if judged else 0.0
    kind = "tasks" if facts["type"] == "TASK" else "pieces of feedback"
    aligned, not_aligned = verdicts.get("aligned", 0), verdicts.get("not_aligned", 0)
    sentences = [
        f"By rule, {aligned} of {judged} {kind} ({share:.0%}) share enough of the guidelines' words to be aligned.",
        f"{not_aligned} share almost none.",
        f"The mean ratings are {facts['realism_mean']:.1f} for realism and {facts['quality_mean']:.1f} for quality.",
    ]
    if cited := facts.get("most_cited"):
        sentences.append(f"Most have words in common with page {cited[0]['page']} of the guidelines.")
    return {"summary": " ".join(sentences), "recommendations": list(_advice(facts, share))}


def _advice(facts: Mapping[str, Any], share: float) -> list[str]:
    advice = []
    if share < 0.5:  # noqa: PLR2004 - less than half
        advice.append("Read the records listed below beside the guidelines: most are not aligned.")
    if facts["quality_mean"] < facts["realism_mean"] - 1:
        advice.append("Ask for more specific and better structured records: quality is rated well below realism.")
    if facts.get("failed"):
        advice.append("Look at the records that could not be judged.")
    advice.append("Configure a language model for a judgement of what the records say.")
    return advice


def _reasons(common: Sequence[str], measured: features.Features, forbidden: Sequence[str], *, overlap: float) -> str:
    more = ", …" if len(common) > MAX_NAMED_WORDS else ""
    named = f" ({', '.join(common[:MAX_NAMED_WORDS])}{more})" if common else ""
    parts = [
        f"{len(common)} words in common with the guidelines{named}, overlap {overlap:.2f}",
        f"specificity {measured.specificity:.2f}",
        f"structure {measured.structure:.2f}",
        f"length {measured.length:.2f}",
        f"repetition {measured.repetition:.2f}",
    ]
    if forbidden:
        parts.append(f"forbidden: {', '.join(forbidden)}")
    return f"{NOTE}: {'; '.join(parts)}"


def _rating(share: float, forbidden: Sequence[str]) -> int:
    """Return ``share`` from 0 to 1 on the scale from 1 to 7; filler and instructions to the judge are worth 1."""
    return LOWEST if forbidden else min(HIGHEST, LOWEST + int(share * (HIGHEST - LOWEST) + 0.5))


def _saturating(count: int, *, half: int) -> float:
    return count / (count + half)
