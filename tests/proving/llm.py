"""A language model port for stages that never ask one."""

from collections.abc import Mapping, Sequence
from typing import Any

from workers.runtime.ports import Answer, Message, T


class NoModel:
    """Refuses every question: no proving stage may ask."""

    async def resolve(self, model: str) -> str:
        raise AssertionError(f"no proving stage may ask a model, got {model!r}")

    async def parse(
        self, messages: Sequence[Message], *, into: type[T], model: str, parameters: Mapping[str, Any] | None = None
    ) -> Answer[T]:
        raise AssertionError(f"no proving stage may ask a model, got {len(messages)} messages for {into} of {model!r}")

    async def aclose(self) -> None:
        """Nothing to release."""
