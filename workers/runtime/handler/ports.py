"""Protocols of language models for handlers. The worker gets their implementations at its start.

So domains and kernel need no provider's library.
"""

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, Literal, Protocol, TypedDict, TypeVar

from pydantic import BaseModel

T = TypeVar("T", bound=BaseModel)

Purpose = Literal["document", "query"]

# Set by a stage that compares models: then one model answers all of its run's questions, or none does. A route that has
# another model to fall back on is refused.
one_model: ContextVar[bool] = ContextVar("one_model", default=False)


class Message(TypedDict):
    """One chat message."""

    role: Literal["system", "user", "assistant"]
    content: str


# Answers a question without a model. It gets the question's messages and returns the fields of the answer, always the
# same for the same messages. Pure; may raise Permanent.
OfflineRule = Callable[[Sequence[Message]], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """A model's validated answer with its evidence: the raw answer, the model, tokens and duration.

    ``path`` is empty unless others stood before who answered: then it has each of them with why it did not, in order,
    and who answered at the end. Its members are ``provider``, ``model`` and ``why_not``.
    """

    value: T
    raw: Mapping[str, Any]
    model: str
    prompt_tokens: int | None
    completion_tokens: int | None
    seconds: float
    path: Sequence[Mapping[str, str]] = ()


@dataclass(frozen=True, slots=True)
class Embeddings:
    """One vector per text, in the order of the texts, all of one length; ``model`` made them.

    Vectors of different models are never compared. ``tokens`` is the provider's count, if it gives one.
    """

    vectors: Sequence[Sequence[float]]
    model: str
    tokens: int | None


@dataclass(frozen=True, slots=True)
class EmbeddingLimits:
    """Limits of embedding requests: texts and tokens per request, requests in flight per process."""

    texts: int = 64
    tokens: int = 100_000
    requests: int = 8


class LanguageModel(Protocol):
    """A provider of structured answers and of embeddings."""

    @property
    def embedding_limits(self) -> EmbeddingLimits:
        """The best size of embedding requests. If a caller sends more at once than allowed, it waits."""

    async def resolve(self, model: str) -> str:
        """Return the identity of the model that answers for ``model`` (for cache keys); raise Permanent if none."""

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
        """Ask once and return the answer as ``into``; raise Retryable, RateLimited or Permanent.

        ``max_tokens`` bounds the answer; without it the form of ``into`` does. With ``share_for``, an answer to exactly
        this question that the same owner paid for within this time is returned instead of asking again.
        ``offline`` answers if no provider is configured; providers ignore it. If there is neither, raise Permanent.
        """

    async def embedding_model(self) -> str:
        """Return the model that :meth:`embed` uses now; raise Permanent if none. May change between two calls."""

    async def embed(self, texts: Sequence[str], *, model: str, purpose: Purpose = "document") -> Embeddings:
        """Return the vectors of ``texts`` by ``model``, one request; raise Retryable, RateLimited or Permanent.

        Some models want a prefix that says whether a text is a document or a query.
        """

    async def aclose(self) -> None:
        """Release its connections; it must not be used afterwards."""
