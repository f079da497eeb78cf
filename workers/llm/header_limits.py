"""Learn limits from the headers of answers, so that all processes keep them before the provider refuses a call.

``x-ratelimit-limit-requests: 60``, ``x-ratelimit-remaining-requests: 45`` and ``x-ratelimit-reset-requests: 15s``, for
tokens too. No header says how long the window is. It follows from the three where what is used comes back evenly, as at
OpenAI: 15 of 60 come back in 15 s, so all of them in a minute. At other providers the figures soon contradict
each other, and nothing is learned.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

import structlog

from workers.llm.errors import duration_of
from workers.llm.ports import Learn
from workers.runtime.handler.errors import describe

log = structlog.get_logger(__name__)

MEASURES = ("requests", "tokens")
WINDOWS = tuple(timedelta(seconds=seconds) for seconds in (1, 60, 3_600, 86_400))
TOLERANCE = 0.05
# A limit is learned after so many answers in a row, over so many seconds, with the same figures.
MIN_ANSWERS, MIN_AGREEMENT_SECONDS = 5, 15.0
# A learned limit ends by itself. It is learned again after this time.
RELEARN_SECONDS = 3_600.0
MAX_KNOWN = 2_000
_MAX_COUNT = 10**12


@dataclass(slots=True)
class _Seen:
    """The same limit in all answers of a model since ``since``."""

    at_most: int
    window: timedelta
    since: float
    times: int = 1
    learned_at: float | None = None


def limit_in_headers(headers: Mapping[str, str], measure: str) -> tuple[int, timedelta] | None:
    """Return the limit and the window in the headers of an answer; None if there is none. Pure."""
    most = _count(headers.get(f"x-ratelimit-limit-{measure}"))
    left = _count(headers.get(f"x-ratelimit-remaining-{measure}"))
    reset = duration_of(headers.get(f"x-ratelimit-reset-{measure}", ""))
    if most is None or left is None or reset is None or not 0 <= left < most:
        return None
    window = reset.total_seconds() * most / (most - left)
    for known in WINDOWS:
        if abs(window / known.total_seconds() - 1) <= TOLERANCE:
            return most, known
    return None


class HeaderLimits:
    """Learns the limits of one provider's models."""

    def __init__(self, provider: str, learn: Learn) -> None:
        self._provider = provider
        self._learn = learn
        self._seen: dict[tuple[str, str], _Seen] = {}
        self._learning: set[asyncio.Task[None]] = set()

    def note(self, model: str, headers: Mapping[str, str], *, now: float | None = None) -> None:
        """Read the headers of one answer; learn a limit once enough answers agree, in a task of its own."""
        now = time.monotonic() if now is None else now
        for measure in MEASURES:
            if f"x-ratelimit-limit-{measure}" not in headers:
                continue
            found = limit_in_headers(headers, measure)
            seen = self._seen.get((model, measure))
            if found is None:
                self._seen.pop((model, measure), None)
            elif seen is None or (seen.at_most, seen.window) != found:
                if len(self._seen) >= MAX_KNOWN:
                    self._seen.clear()
                self._seen[model, measure] = _Seen(*found, since=now)
            else:
                seen.times += 1
                self._learn_if_sure(model, measure, seen, now)

    def _learn_if_sure(self, model: str, measure: str, seen: _Seen, now: float) -> None:
        if seen.times < MIN_ANSWERS or now - seen.since < MIN_AGREEMENT_SECONDS:
            return
        if seen.learned_at is not None and now - seen.learned_at < RELEARN_SECONDS:
            return
        seen.learned_at = now
        task = asyncio.create_task(self._learn_limit(model, measure, seen))
        self._learning.add(task)
        task.add_done_callback(self._learning.discard)

    async def _learn_limit(self, model: str, measure: str, seen: _Seen) -> None:
        try:
            await self._learn(self._provider, model, measure=measure, at_most=seen.at_most, window=seen.window)
        except Exception as error:  # noqa: BLE001 - the next answers are another chance
            seen.learned_at = None
            log.warning("limit_not_learned", provider=self._provider, model=model, error=describe(error))


def _count(text: str | None) -> int | None:
    text = (text or "").strip()
    return (
        min(int(text), _MAX_COUNT) if text.isascii() and text.isdigit() and len(text) <= len(str(_MAX_COUNT)) else None
    )
