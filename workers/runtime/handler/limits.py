"""Limits that are checked before a job is dispatched. Pure declarations; the dispatcher enforces them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limit:
    """At most ``at_most`` jobs of one stage in flight per value of ``column``, over all workers.

    A job is in flight from its dispatch mark to its settle. Only the leading dispatcher gives marks and only
    marked jobs can be claimed, so the bound holds at every instant.
    """

    column: str
    at_most: int

    def __post_init__(self) -> None:
        if self.at_most < 1:
            raise ValueError(f"at_most must be at least 1, got {self.at_most!r}")
