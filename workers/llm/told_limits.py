"""Limits that a provider tells in the headers of its answers, to be kept by all processes before it refuses anybody.

``x-ratelimit-limit-requests: 60``, ``x-ratelimit-remaining-requests: 45`` and ``x-ratelimit-reset-requests: 15s``, for
tokens too. No header says how long the window is. It follows from the three where what is used comes back evenly, as at
OpenAI: 15 of 60 come back in 15 s, so all of them in a minute. Elsewhere the figures contradict each other soon, and
nothing is learned.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

import structlog

from workers.llm.errors import duration_of
from workers.llm.places import Learn
from workers.runtime.handler.errors import describe

log = structlog.get_logger(__name__)

MEASURES = ("requests", "tokens")
WINDOWS = tuple(timedelta(seconds=seconds) for seconds in (1, 60, 3_600, 86_400))
TOLERANCE = 0.05
# So many answers in a row, over so long, must tell the same.
AGREEING, AGREEING_SECONDS = 5, 15.0
# What is known is told again after so long, before it is forgotten.
AGAIN_SECONDS = 3_600.0
MOST_KNOWN = 2_000
_MOST = 10**12


@dataclass(slots=True)
class _Seen:
    """What the answers of a model told of one measure, one like the other."""

    at_most: int
    window: timedelta
    since: float
    times: int = 1
    told_at: float | None = None


def told_by(headers: Mapping[str, str], measure: str) -> tuple[int, timedelta] | None:
    """Return the limit and the window that the headers of an answer tell; None where they tell none. Pure."""
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


class ToldLimits:
    """Learns the limits of one provider's models."""

    def __init__(self, provider: str, learn: Learn) -> None:
        self._provider = provider
        self._learn = learn
        self._seen: dict[tuple[str, str], _Seen] = {}
        self._learning: set[asyncio.Task[None]] = set()

    def note(self, model: str, headers: Mapping[str, str], *, now: float | None = None) -> None:
        """Take in what an answer tells; what enough of them agree about is learned, in a task of its own."""
        now = time.monotonic() if now is None else now
        for measure in MEASURES:
            if f"x-ratelimit-limit-{measure}" not in headers:
                continue
            found = told_by(headers, measure)
            seen = self._seen.get((model, measure))
            if found is None:
                self._seen.pop((model, measure), None)
            elif seen is None or (seen.at_most, seen.window) != found:
                if len(self._seen) >= MOST_KNOWN:
                    self._seen.clear()
                self._seen[model, measure] = _Seen(*found, since=now)
            else:
                seen.times += 1
                self._tell(model, measure, seen, now)

    def _tell(self, model: str, measure: str, seen: _Seen, now: float) -> None:
        if seen.times < AGREEING or now - seen.since < AGREEING_SECONDS:
            return
        if seen.told_at is not None and now - seen.told_at < AGAIN_SECONDS:
            return
        seen.told_at = now
        task = asyncio.create_task(self._told(model, measure, seen))
        self._learning.add(task)
        task.add_done_callback(self._learning.discard)

    async def _told(self, model: str, measure: str, seen: _Seen) -> None:
        try:
            await self._learn(self._provider, model, measure=measure, at_most=seen.at_most, window=seen.window)
        except Exception as error:  # noqa: BLE001 - the next answers tell it again
            seen.told_at = None
            log.warning("limit_not_learned", provider=self._provider, model=model, error=describe(error))


def _count(text: str | None) -> int | None:
    text = (text or "").strip()
    return min(int(text), _MOST) if text.isascii() and text.isdigit() and len(text) <= len(str(_MOST)) else None
