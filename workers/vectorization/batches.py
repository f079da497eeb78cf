"""Cut records into requests for embeddings. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from uuid import UUID

from workers.runtime.handler.ports import EmbeddingLimits

# Never too low on 1,800 real texts of many languages, where four bytes per token were.
BYTES_PER_TOKEN = 3


@dataclass(frozen=True, slots=True)
class Pending:
    """A record that waits for a vector."""

    id: UUID
    content: str

    @property
    def tokens(self) -> int:
        """Its estimated length."""
        return len(self.content.encode()) // BYTES_PER_TOKEN + 1

    @property
    def digest(self) -> str:
        """The SHA-256 of its content, in hexadecimal: what a vector is kept for, and for nothing else."""
        return sha256(self.content.encode()).hexdigest()


def cut(records: Sequence[Pending], limits: EmbeddingLimits) -> Iterator[list[Pending]]:
    """Yield ``records`` in requests within ``limits``; a text that exceeds them alone has a request of its own.

    Longest first, so that the texts of a request are alike: a server computes as long as the longest of them takes.
    """
    request: list[Pending] = []
    total = 0
    for record in sorted(records, key=lambda one: one.tokens, reverse=True):
        tokens = record.tokens
        if request and (len(request) >= limits.texts or total + tokens > limits.tokens):
            yield request
            request, total = [], 0
        request.append(record)
        total += tokens
    if request:
        yield request
