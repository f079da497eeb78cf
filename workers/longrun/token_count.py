"""Count the tokens that one job's calls of a language model use, over all of its runs."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from typing import Any, Self, TypeVar

from pydantic import BaseModel

from workers.runtime.handler.context import Context
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


@dataclass(slots=True)
class TokenCount:
    """The tokens of a job's questions, answers and embedded texts, as far as providers count them."""

    prompt: int = 0
    completion: int = 0
    embedding: int = 0

    @classmethod
    def of(cls, notes: Mapping[str, Any] | None) -> Self:
        """Return what the earlier runs of a job noted; see :meth:`note`."""
        return cls(**(notes or {}).get("tokens", {}))

    def note(self) -> dict[str, int]:
        """Return the counts as they are stored in the job's row."""
        return asdict(self)

    def counting(self, ctx: Context) -> Context:
        """Return ``ctx`` with a language model that adds what it uses to these counts."""
        return replace(ctx, resources=replace(ctx.resources, llm=_Counting(ctx.llm, self)))


class _Counting:
    """Asks ``llm`` and counts. A call that fails gives no count: the ledger has it."""

    def __init__(self, llm: LanguageModel, count: TokenCount) -> None:
        self._llm = llm
        self._count = count

    @property
    def embedding_limits(self) -> EmbeddingLimits:
        return self._llm.embedding_limits

    async def resolve(self, model: str) -> str:
        return await self._llm.resolve(model)

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
        answer = await self._llm.parse(
            messages,
            into=into,
            model=model,
            parameters=parameters,
            offline=offline,
            max_tokens=max_tokens,
            share_for=share_for,
        )
        self._count.prompt += answer.prompt_tokens or 0
        self._count.completion += answer.completion_tokens or 0
        return answer

    async def embedding_model(self) -> str:
        return await self._llm.embedding_model()

    async def embed(self, texts: Sequence[str], *, model: str, purpose: Purpose = "document") -> Embeddings:
        made = await self._llm.embed(texts, model=model, purpose=purpose)
        self._count.embedding += made.tokens or 0
        return made

    async def record_reused(self, tokens: int, *, model: str) -> None:
        if isinstance(self._llm, ReuseLedger):
            await self._llm.record_reused(tokens, model=model)

    async def aclose(self) -> None:
        """Hold nothing: the process closes its model."""
