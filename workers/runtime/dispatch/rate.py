"""How fast a stage is dispatched. Pure, except for the process's clock."""

import math
import time


class DispatchRate:
    """Jobs dispatched per second: a count that decays exponentially with a time constant of one second."""

    def __init__(self) -> None:
        self._jobs = 0.0
        self._at = time.monotonic()

    def per_second(self) -> float:
        now = time.monotonic()
        self._jobs *= math.exp(self._at - now)
        self._at = now
        return self._jobs

    def count(self, jobs: int) -> None:
        self._jobs = self.per_second() + jobs
