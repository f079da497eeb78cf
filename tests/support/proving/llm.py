"""A language model port for stages that never ask one."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from workers.runtime.handler.ports import Answer, EmbeddingLimits, Embeddings, Message, OfflineRule, Purpose, T


class NoModel:
    """Refuses every question, because no proving stage may ask one."""

    @property
    def embedding_limits(self) -> EmbeddingLimits:
        return EmbeddingLimits()

    async def resolve(self, model: str) -> str:
        raise AssertionError(f"no proving stage may ask a model, got {model!r}")

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
        raise AssertionError(f"no proving stage may ask a model, got {len(messages)} messages for {into} of {model!r}")

    async def embedding_model(self) -> str:
        raise AssertionError("no proving stage may ask for an embedding model")

    async def embed(self, texts: Sequence[str], *, model: str, purpose: Purpose = "document") -> Embeddings:
        raise AssertionError(f"no proving stage may embed, got {len(texts)} texts for {model!r}")

    async def aclose(self) -> None:
        """Nothing to release."""
