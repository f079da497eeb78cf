"""The provider that answers if none is configured: by rules that come with the questions, not by intelligence.

It says so everywhere. It knows no question: each brings its own rule, and one without a rule is refused. Its vectors
are feature hashes.
"""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import timedelta
from time import perf_counter
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from workers.llm import feature_hash
from workers.runtime.handler.errors import Permanent
from workers.runtime.handler.ports import Answer, EmbeddingLimits, Embeddings, Message, OfflineRule, Purpose
from workers.runtime.handler.rule_based import MODEL_PREFIX, NOTE
from workers.runtime.refusals import first_problem

T = TypeVar("T", bound=BaseModel)

MODEL = f"{MODEL_PREFIX}v1"

# It computes in this process: more than two threads at once would only take turns.
LIMITS = EmbeddingLimits(texts=64, tokens=100_000, requests=2)


class OfflineEvaluator:
    """A deterministic evaluator behind the LanguageModel protocol.

    A question is answered by its ``offline`` rule. Any model name is accepted: the answer's own is
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
        offline: OfflineRule | None = None,
        max_tokens: int | None = None,  # noqa: ARG002 - a rule's answer has its own length
        share_for: timedelta | None = None,  # noqa: ARG002 - it costs nothing
    ) -> Answer[T]:
        """Return what the question's rule answers, as ``into``; raise Permanent if there is none."""
        if offline is None:
            raise Permanent(f"{MODEL} cannot answer {into.__name__}: the question brings no rule; configure a provider")
        started = perf_counter()
        evaluation = await asyncio.to_thread(offline, messages)  # takes some milliseconds for a long text
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

    async def embed(
        self,
        texts: Sequence[str],
        *,
        model: str,
        purpose: Purpose = "document",  # noqa: ARG002 - a hash needs none
    ) -> Embeddings:
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
