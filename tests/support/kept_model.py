"""A language model whose answers are kept, without routes, admission and ledger, for tests of what is kept."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from pydantic import BaseModel

from workers.llm.kept import Kept, KeptAnswer, question_of, restore
from workers.llm.kept.identical_texts import embed_once
from workers.runtime.handler.ports import (
    Answer,
    EmbeddingLimits,
    Embeddings,
    LanguageModel,
    Message,
    OfflineRule,
    Purpose,
    ReuseLedger,
)

T = TypeVar("T", bound=BaseModel)


class KeptModel:
    """Answers what was kept, and keeps what ``model`` answers. ``close_kept`` is called when it is closed."""

    def __init__(
        self, model: LanguageModel, kept: Kept, *, close_kept: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        self._model = model
        self._kept = kept
        self._close_kept = close_kept

    @property
    def embedding_limits(self) -> EmbeddingLimits:
        return self._model.embedding_limits

    async def resolve(self, model: str) -> str:
        """Return who will answer for ``model``."""
        return await self._model.resolve(model)

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
        """Return the answer that this job, or within ``share_for`` another one of its owner, paid for; else ask."""
        identity = await self._model.resolve(model)
        question = question_of(identity, messages, into=into, parameters=parameters, share_for=share_for)
        if (found := await self._kept.find(question)) and (kept := restore(found, question, into)):
            return kept
        try:
            answer = await self._model.parse(
                messages, into=into, model=model, parameters=parameters, offline=offline, max_tokens=max_tokens
            )
        except BaseException:
            await self._kept.drop(question)
            raise
        await self._kept.keep(question, KeptAnswer.of(answer))
        return answer

    async def embedding_model(self) -> str:
        """Return the model that embeds now."""
        return await self._model.embedding_model()

    async def embed(self, texts: Sequence[str], *, model: str, purpose: Purpose = "document") -> Embeddings:
        """Return the vectors of ``texts``; equal texts are sent once."""
        return await embed_once(texts, lambda once: self._model.embed(once, model=model, purpose=purpose))

    async def record_reused(self, tokens: int, *, model: str) -> None:
        """Record what was not sent, if the model has a ledger."""
        if isinstance(self._model, ReuseLedger):
            await self._model.record_reused(tokens, model=model)

    async def aclose(self) -> None:
        """Close what answers are kept with, then the model."""
        if self._close_kept is not None:
            await self._close_kept()
        await self._model.aclose()
