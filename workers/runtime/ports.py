"""What a handler may ask of the outside world, as protocols; the rooms that implement them are handed in at start.

Keeps domains and kernel free of any provider's library.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypedDict, TypeVar

from pydantic import BaseModel

T = TypeVar("T", bound=BaseModel)


class Message(TypedDict):
    """One chat message."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """A model's validated answer with its evidence: what came over the wire, who answered, tokens and duration."""

    value: T
    raw: Mapping[str, Any]
    model: str
    prompt_tokens: int | None
    completion_tokens: int | None
    seconds: float


class LanguageModel(Protocol):
    """A provider of structured answers."""

    async def resolve(self, model: str) -> str:
        """Return the identity of who will answer for ``model`` (part of a cache key); raise Permanent if nobody can."""

    async def parse(
        self, messages: Sequence[Message], *, into: type[T], model: str, parameters: Mapping[str, Any] | None = None
    ) -> Answer[T]:
        """Ask once and return the answer as ``into``; raise Retryable, RateLimited or Permanent."""

    async def aclose(self) -> None:
        """Release its connections; nothing is asked afterwards."""
