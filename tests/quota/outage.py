"""A provider that is away, then slow, then refusing, then gone for its key: what waiting jobs say, and who resumes."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from uuid import UUID

from tests.e2e.system import System
from tests.quota.proof import enqueue
from tests.support.fakes.openai_server import FakeOpenAI

# As an operator would set them for a provider that answers at once; a pause still lasts two seconds at least.
SETTINGS = {"GRISTMILL_LLM__TIMEOUT_SECONDS": "2", "GRISTMILL_LLM__CONNECT_TIMEOUT_SECONDS": "1"}
JOBS = 20
_WAITING = "SELECT id, wait_reason FROM runtime.jobs WHERE id = ANY (%s) AND status = 'pending'"
_ENDED = "SELECT count(*) FROM runtime.jobs WHERE id = ANY (%s) AND status <> 'pending' AND status <> 'processing'"
_ATTEMPTS = "SELECT sum(retry_count) FROM runtime.jobs WHERE id = ANY (%s)"
ANSWER = {"kind": "answer"}


@dataclass(slots=True)
class Provider:
    """A fake provider that can be shut down and started again at its address. It answers who has ``api_key``."""

    name: str
    fake: FakeOpenAI | None = None
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def calls(self) -> int:
        return self.fake.calls if self.fake else 0

    def start(self) -> None:
        self.fake = FakeOpenAI(port=self.port)
        self.fake.__enter__()
        self.port = int(self.fake.url.removesuffix("/v1").rpartition(":")[2])

    def stop(self) -> None:
        if self.fake is not None:
            self.fake.__exit__()
            self.fake = None

    def behave(self, behaviour: Mapping[str, object]) -> None:
        """Answer every call like this; start if it is away."""
        if self.fake is None:
            self.start()
        assert self.fake is not None
        self.fake.script(default=behaviour)


@contextmanager
def provider(name: str) -> Iterator[Provider]:
    """Yield a provider that answers, and end it afterwards."""
    made = Provider(name)
    made.start()
    try:
        yield made
    finally:
        made.stop()


@dataclass(frozen=True, slots=True)
class Phase:
    """One way in which a provider cannot be asked. ``mend`` is what a person does once it could answer again."""

    name: str
    begin: Callable[[Provider], None]
    mend: Callable[[System, Provider], None] = field(default=lambda _system, _provider: None)


def resume(system: System, one: Provider) -> None:
    system.gristmill("llm", "resume", one.name)


def give_another_key(system: System, one: Provider) -> None:
    system.gristmill("llm", "providers", "set", one.name, "--key-env", "NEW_KEY", NEW_KEY=f"sk-{time.time_ns()}")


PHASES = (
    Phase("away", lambda one: one.stop()),
    Phase("slow", lambda one: one.behave({"kind": "hang"})),
    Phase("refusing (500)", lambda one: one.behave({"kind": "status", "status": 500})),
    Phase("key refused (401)", lambda one: one.behave({"kind": "status", "status": 401})),
    Phase("key replaced (401)", lambda one: one.behave({"kind": "status", "status": 401}), give_another_key),
    Phase("quota paid (402)", lambda one: one.behave({"kind": "status", "status": 402}), resume),
    Phase("another key (402)", lambda one: one.behave({"kind": "status", "status": 402}), give_another_key),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of the jobs of a phase. ``reasons`` are what they said while they waited, each once.

    ``calls`` is how often the provider was asked in vain, ``resumed_seconds`` how long after it could answer again the
    last job had ended.
    """

    phase: str
    jobs: int
    silent: int
    ended_meanwhile: int
    completed: int
    attempts: int
    calls: int
    resumed_seconds: float
    reasons: Sequence[str]


def go_through(system: System, one: Provider, phase: Phase, *, lasts: float, seconds: float) -> Outcome:
    """Let a phase begin, enqueue jobs, let it last until each has said why it waits, and end it; count what became."""
    phase.begin(one)
    before = one.calls
    jobs = enqueue(system, one.name, JOBS)
    said: dict[UUID, str] = {}
    ends = time.monotonic() + lasts

    def have_all_said() -> bool:
        told = ((job, reason) for job, reason in system.ask(_WAITING, jobs) if _names(reason, one))
        said.update(told)
        return len(said) == len(jobs) and time.monotonic() >= ends

    system.wait(have_all_said, f"every job says that it waits for {one.name}; {len(said)} did", seconds=lasts + seconds)
    [(ended,)] = system.ask(_ENDED, jobs)
    calls = one.calls - before
    one.behave(ANSWER)
    back = time.monotonic()
    phase.mend(system, one)
    system.await_all(jobs, seconds=lasts + seconds)
    [(attempts,)] = system.ask(_ATTEMPTS, jobs)
    return Outcome(
        phase=phase.name,
        jobs=len(jobs),
        silent=len(jobs) - len(said),
        ended_meanwhile=ended,
        completed=system.count("completed", jobs),
        attempts=int(attempts),
        calls=calls,
        resumed_seconds=time.monotonic() - back,
        reasons=sorted({_without_times(reason) for reason in said.values()}),
    )


def _names(reason: str | None, one: Provider) -> bool:
    """Tell whether a reason names the provider, by its name or its address."""
    return reason is not None and (one.url in reason or f"provider {one.name}" in reason)


def _without_times(reason: str) -> str:
    return reason.partition(", next try at")[0]
