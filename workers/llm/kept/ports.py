"""What those who answer questions ask of those who keep answers."""

from typing import Protocol

from workers.llm.kept.answers import KeptAnswer
from workers.llm.kept.questions import Question


class Kept(Protocol):
    """Where answers are kept."""

    async def find(self, question: Question) -> KeptAnswer | None:
        """Return what this job, or one that shares with it, has paid for already.

        None: the caller must ask now, and then call ``keep`` or ``drop``. Who asks the same meanwhile waits here for a
        short time, and then gets AskedElsewhereError.
        """

    async def keep(self, question: Question, answer: KeptAnswer) -> None:
        """Keep the valid answer to a question. Returns once that is committed."""

    async def drop(self, question: Question) -> None:
        """Let another ask: this question got no answer."""
