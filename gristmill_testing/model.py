"""A language model with scripted answers. Like a provider's, its answers must have the form that the question asks."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from workers.llm import feature_hash
from workers.runtime.handler.errors import Permanent, Retryable
from workers.runtime.handler.ports import Answer, EmbeddingLimits, Embeddings, Message, OfflineRule, Purpose

T = TypeVar("T", bound=BaseModel)


class ScriptedModel:
    """Gives its answers in order and repeats the last one. An answer is a value to validate, or an error to raise.

    Without a script it refuses the question, and the job fails. While ``released`` is not set, questions wait.
    ``asked`` holds all questions in order. It embeds with the offline embedder under the name ``embedder``;
    ``embedded`` holds the texts of each request.
    """

    embedding_limits = EmbeddingLimits()

    def __init__(self, *answers: Mapping[str, Any] | Exception) -> None:
        self._answers = list(answers)
        self.asked: list[Sequence[Message]] = []
        self.cancelled = 0
        self.released = asyncio.Event()
        self.released.set()
        self.embedder = "scripted-embedder"
        self.embedded: list[list[str]] = []

    def will_answer(self, *answers: Mapping[str, Any] | Exception) -> None:
        """Replace the script."""
        self._answers = list(answers)

    async def resolve(self, model: str) -> str:
        return model

    async def parse(
        self,
        messages: Sequence[Message],
        *,
        into: type[T],
        model: str,
        parameters: Mapping[str, Any] | None = None,
        offline: OfflineRule | None = None,
        max_tokens: int | None = None,
        share_for: timedelta | None = None,
    ) -> Answer[T]:
        self.asked.append(messages)
        if not self._answers:
            raise Permanent(f"no answer for {into.__name__} is scripted: call will_answer() of the model first")
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        try:
            await self.released.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if isinstance(answer, Exception):
            raise answer
        try:
            value = into.model_validate(answer)
        except ValidationError as error:
            raise Retryable(error.errors()[0]["msg"]) from None
        return Answer(value, raw={}, model=model, prompt_tokens=100, completion_tokens=20, seconds=0.0)

    async def embedding_model(self) -> str:
        return self.embedder

    async def embed(self, texts: Sequence[str], *, model: str, purpose: Purpose = "document") -> Embeddings:
        self.embedded.append(list(texts))
        return Embeddings([feature_hash.vector(text) for text in texts], model, tokens=0)

    async def aclose(self) -> None:
        pass
