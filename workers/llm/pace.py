"""How long calls of each model take of late, to begin none that its run has no time for."""

from collections import OrderedDict

MIN_SECONDS = 1.0
MARGIN = 1.25
# A long call is forgotten slowly.
DECAY = 0.95
MAX_MODELS = 1_000


class Pace:
    """Remembers the longest call of each model, and lets it fade with each further one."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._longest: OrderedDict[str, float] = OrderedDict()

    def note(self, model: str, seconds: float) -> None:
        """Take in how long a call took."""
        self._longest[model] = max(seconds, DECAY * self._longest.pop(model, 0.0))
        if len(self._longest) > MAX_MODELS:
            self._longest.popitem(last=False)

    def needed(self, model: str) -> float:
        """Return the seconds that a call is to have: a second at least, its timeout at most."""
        return min(max(MARGIN * self._longest.get(model, 0.0), MIN_SECONDS), self._timeout)
