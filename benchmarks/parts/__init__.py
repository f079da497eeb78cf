"""The parts of a run, one file each."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from benchmarks.figures import Figure
from benchmarks.peers.measure import Peer
from benchmarks.sizes import Sizes
from benchmarks.system import System

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Bench:
    """The arguments of every part: the servers, the sizes, the peers, and a function that prints progress.

    ``failures``: the reasons why contenders were left out, by name.
    """

    system: System
    sizes: Sizes
    say: Callable[[str], None]
    peers: Sequence[Peer] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)

    def interleaved(self, contenders: dict[str, Callable[[], T]]) -> dict[str, list[T]]:
        """Run A B C, A B C …, one at a time; return the samples of each contender.

        If a contender fails, the reason is printed and it is left out of the next rounds. If ours fails, that raises.
        """
        samples: dict[str, list[T]] = {}
        failed: set[str] = set()
        for turn in range(self.sizes.repeat):
            for position, (name, measure) in enumerate(contenders.items()):
                if name in failed:
                    continue
                self.say(f"round {turn + 1} of {self.sizes.repeat}: {name}")
                try:
                    samples.setdefault(name, []).append(measure())
                except Exception as error:
                    if position == 0:
                        raise
                    failed.add(name)
                    self.failures[name] = f"{type(error).__name__}: {error}"
                    self.say(f"{name} is left out: {self.failures[name]}")
        return {name: measured for name, measured in samples.items() if measured}


Part = Callable[[Bench], Iterator[Figure]]
