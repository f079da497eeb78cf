"""The evaluator that answers when no provider is configured: rules, not intelligence, and it says so everywhere.

It counts features of a profile against the words of each criterion (``features.py``), so its scores tell a full
profile from an empty one, deterministically and without a network. They are no judgement of quality.
"""

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from workers.llm import feature_hash, features, offline_alignment
from workers.runtime.handler.errors import Permanent
from workers.runtime.handler.ports import Answer, EmbeddingLimits, Embeddings, Message
from workers.runtime.refusals import first_problem

T = TypeVar("T", bound=BaseModel)

MODEL = "offline-rubric-v1"
NOTE = "rule-based, not an AI judgement"
SUPPORTED = frozenset({"overall", "criteria", "flags"})

THIN_WORDS = 30
REPETITIVE = 0.4
# It computes in this process: more than two threads at once would only take turns.
LIMITS = EmbeddingLimits(texts=64, tokens=100_000, requests=2)
QUOTES, QUOTE_WIDTH = 3, 160
MISSING_NAMED = 5
FORBIDDEN_COST = 15.0


class OfflineEvaluator:
    """A deterministic rubric evaluator behind the LanguageModel protocol.

    It reads the JSON of the sections ``<criteria>`` (a list of name, weight, description) and ``<profile>`` (name,
    attributes) of the messages, and answers schemas with overall, criteria and flags; records beside guidelines and
    reports on them are answered by ``offline_alignment.py``. Any model name is accepted: the answer's own is
    ``offline-rubric-v1``. Its vectors are ``feature_hash.py``'s.
    """

    @property
    def embedding_limits(self) -> EmbeddingLimits:
        return LIMITS

    async def resolve(self, model: str) -> str:  # noqa: ARG002 - the protocol's signature
        """Return the evaluator's own name, whatever model the job names."""
        return MODEL

    async def parse(
        self,
        messages: Sequence[Message],
        *,
        into: type[T],
        model: str,  # noqa: ARG002 - the protocol's signature
        parameters: Mapping[str, Any] | None = None,  # noqa: ARG002 - rules take none
    ) -> Answer[T]:
        """Return the evaluation as ``into``; raise Permanent for a question of another kind."""
        started = perf_counter()
        evaluation = await asyncio.to_thread(_evaluation, into, messages)  # some milliseconds for a long text
        try:
            value = into.model_validate(evaluation)
        except ValidationError as error:
            raise Permanent(f"{MODEL} cannot answer {into.__name__}: {first_problem(error, whole='answer')}") from None
        return Answer(
            value=value,
            raw={"model": MODEL, "note": NOTE, "evaluation": evaluation},
            model=MODEL,
            prompt_tokens=0,
            completion_tokens=0,
            seconds=perf_counter() - started,
        )

    async def embedding_model(self) -> str:
        """Return the feature hash's name; there is no other."""
        return feature_hash.MODEL

    async def embed(self, texts: Sequence[str], *, model: str) -> Embeddings:
        """Return the texts' feature hashes; raise Permanent for an empty text or another model's name."""
        if model != feature_hash.MODEL:
            raise Permanent(f"embedding model {model!r} is not here; the offline one is {feature_hash.MODEL!r}")
        if not texts or not all(map(str.strip, texts)):
            raise Permanent("an empty text has no embedding")
        try:
            vectors = await asyncio.to_thread(lambda: [feature_hash.vector(text) for text in texts])
        except ValueError as error:
            raise Permanent(str(error)) from None
        return Embeddings(vectors, feature_hash.MODEL, tokens=0)

    async def aclose(self) -> None:
        """Hold nothing, close nothing."""


def evaluate(criteria: Sequence[Mapping[str, Any]], profile: Mapping[str, Any]) -> dict[str, Any]:
    """Score ``profile`` by each criterion; the same input always gives the same result.

    A criterion's key terms are the words of its description, of its name where it has none.
    """
    read = features.passages(profile.get("attributes") or {})
    forbidden, amount = features.forbidden_terms(read), features.amount(read)
    scored = [_score(criterion, read, amount, forbidden) for criterion in criteria]
    weights = [float(criterion.get("weight", 1)) for criterion in criteria]
    overall = sum(weight * score["score"] for weight, score in zip(weights, scored, strict=True)) / (sum(weights) or 1)
    return {"overall": round(overall, 1), "criteria": scored, "flags": _flags(read, amount, forbidden)}


def _score(
    criterion: Mapping[str, Any],
    profile: Sequence[features.Passage],
    amount: features.Amount,
    forbidden: Sequence[str],
) -> dict[str, Any]:
    key_terms = features.terms_of(criterion.get("description", "")) or features.terms_of(criterion["name"])
    measured = features.measure(key_terms, profile)
    # A short text, or one in other words or another language, says little to the point; it is not nothing.
    by_amount = measured.score < amount.score * (1 - 0.5 * measured.repetition)
    shown = amount.score * (1 - 0.5 * measured.repetition) if by_amount else measured.score
    return {
        "name": criterion["name"],
        "score": max(0.0, round(shown, 1) - FORBIDDEN_COST * len(forbidden)),
        "evidence": features.snippets(key_terms, profile, at_most=QUOTES, width=QUOTE_WIDTH),
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
    """Name the features behind a score."""
    parts = [] if amount.words else ["nothing to judge: no text beside the name"]
    if by_amount:
        parts.append(
            f"says little to the point: scored by its amount alone, at most {features.MOST_BY_AMOUNT:g} "
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
        parts.append(f"not mentioned: {', '.join(measured.missing[:MISSING_NAMED])}")
    if forbidden:
        parts.append(f"forbidden: {', '.join(forbidden)}")
    return f"{NOTE}: {'; '.join(parts)}"


def _flags(profile: Sequence[features.Passage], amount: features.Amount, forbidden: Sequence[str]) -> list[str]:
    if not profile:
        return ["no evidence"]
    words = [word for passage in profile for word in passage.words]
    flags = [f"forbidden term: {term}" for term in forbidden]
    if amount.all_words < THIN_WORDS:
        flags.append("little evidence")
    if features.repetition(words) > REPETITIVE:
        flags.append("repetitive text")
    return flags


def _evaluation(into: type[BaseModel], messages: Sequence[Message]) -> dict[str, Any]:
    """Answer the question that the schema and the sections of the messages make."""
    fields = into.model_fields.keys()
    if fields >= SUPPORTED:
        return evaluate(_section("criteria", messages), _section("profile", messages))
    if fields >= offline_alignment.ALIGNMENT:
        return offline_alignment.align(_section("passages", messages), _section("record", messages))
    if fields >= offline_alignment.SUMMARY:
        return offline_alignment.summarise(_section("facts", messages))
    raise Permanent(
        f"{MODEL} answers alignments, reports on them and schemas with overall, criteria and flags only, "
        f"got {into.__name__}"
    )


def _section(name: str, messages: Sequence[Message]) -> Any:
    """Return the JSON of the last section of that name; raise Permanent where there is none."""
    for message in reversed(messages):
        if found := re.search(rf"<{name}>\n(.*?)\n</{name}>", message["content"], re.DOTALL):
            return json.loads(found[1])
    raise Permanent(f"{MODEL} reads criteria and profile, passages and record, or facts; section {name} is missing")
