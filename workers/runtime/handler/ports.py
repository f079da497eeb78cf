"""What a handler may ask of the outside world, as protocols; the rooms that implement them are handed in at start.

Keeps domains and kernel free of any provider's library.
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


# Answers a question without a model: it is given the question's messages and returns the members of the answer, always
# the same for the same messages. Pure; may raise Permanent.
OfflineRule = Callable[[Sequence[Message]], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """A model's validated answer with its evidence: what came over the wire, who answered, tokens and duration.

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
    """One vector per text, in the order of the texts, all of one length; ``model`` is whose they are.

    Vectors of different models are never compared. ``tokens`` is what the provider counted, where it does.
    """

    vectors: Sequence[Sequence[float]]
    model: str
    tokens: int | None


@dataclass(frozen=True, slots=True)
class EmbeddingLimits:
    """How much of embedding a provider is given: texts and tokens per request, requests in flight per process."""

    texts: int = 64
    tokens: int = 100_000
    requests: int = 8


class LanguageModel(Protocol):
    """A provider of structured answers and of embeddings."""

    @property
    def embedding_limits(self) -> EmbeddingLimits:
        """How requests for embeddings are best cut; who sends more at once than it allows waits."""

    async def resolve(self, model: str) -> str:
        """Return the identity of who will answer for ``model`` (part of a cache key); raise Permanent if nobody can."""

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
        ``offline`` answers if no provider is configured. Providers do not look at it. Without it such a question is
        refused as Permanent.
        """

    async def embedding_model(self) -> str:
        """Return whose vectors :meth:`embed` gives now; raise Permanent if nobody's. May change between two calls."""

    async def embed(self, texts: Sequence[str], *, model: str, purpose: Purpose = "document") -> Embeddings:
        """Return the vectors of ``texts`` by ``model``, one request; raise Retryable, RateLimited or Permanent.

        Some models want a prefix that says whether a text is a document or a query.
        """

    async def aclose(self) -> None:
        """Release its connections; nothing is asked afterwards."""
