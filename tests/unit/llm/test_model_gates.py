"""Gates of model calls: which jobs would only be refused now, why, and until when."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import tests.support.proving.stages  # noqa: F401 - importing registers the stages
from workers.llm import gates as gates_module
from workers.llm.calls import NotAdmittedError
from workers.llm.gates import NO_GATE_FROM, ModelGates, Pause
from workers.runtime.dispatch.gates import AskedStage, Gate
from workers.runtime.handler.registry import registry

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
FIRST = registry["proving.first"]


@dataclass
class Provider:
    name: str
    server: str | None = None
    is_offline: bool = False
    paused_at: datetime | None = None
    paused_reason: str | None = None
    key_changed_at: datetime | None = None

    @property
    def key_name(self) -> str:
        return f"key of {self.name}"


@dataclass(frozen=True)
class Step:
    provider: str
    model: str | None


@dataclass
class Path:
    steps: list[Step]


@dataclass
class Room:
    calls: int | None
    refusal: NotAdmittedError | None = None


@dataclass
class World:
    """Routing, admission and outages of a test. Each model is its own path at provider p, unless ``paths`` has one."""

    paths: dict[str, list[Step]] = field(default_factory=dict)
    rooms: dict[tuple[str, str], Room] = field(default_factory=dict)
    pauses: dict[str, Pause] = field(default_factory=dict)
    providers: dict[str, Provider] = field(default_factory=dict)
    asked: list[Any] = field(default_factory=list)
    known: list[str] = field(default_factory=list)
    gates: ModelGates | None = None

    def known_names(self) -> list[str]:
        return self.known

    def bound_projects(self, serves: str, *, stage: str) -> list[Any]:
        return []

    def path(self, model: str, *, stage: str | None, project_id: Any) -> Path:
        if model == "route:gone":
            raise LookupError(model)
        return Path(self.paths.get(model, [Step("p", model)]))

    def embedding_path(self, *, stage: str | None, project_id: Any) -> Path:
        return Path([Step("e", None)])

    def provider_of(self, step: Step) -> Provider:
        return self.providers.get(step.provider) or Provider(step.provider, f"http://{step.provider}")

    async def look(self, *keys: str, stage=FIRST) -> list[Gate]:
        async def routing():
            return self

        async def capacity(paths):
            self.asked = list(paths)
            return [self.rooms.get((one.provider, one.model), Room(None)) for one in paths]

        async def pauses():
            return self.pauses

        if self.gates is None:
            self.gates = ModelGates(routing=routing, capacity=capacity, pauses=pauses, clock=lambda: NOW)
        return list(await self.gates.look([AskedStage(stage, keys)]))


def refused(name: str = "requests per minute of provider p", *, seconds: float = 30.0) -> NotAdmittedError:
    return NotAdmittedError(f"{name}: 30 of 30 used", delay=timedelta(seconds=seconds), limit=name)


async def test_without_limits_and_outages_there_is_no_gate():
    """The plain statement of the dispatcher picks, as before."""
    assert await World().look("a", "b") == []


async def test_a_full_limit_closes_the_gate_until_its_next_free_time():
    """It names the limit and its state; other models pass."""
    world = World(rooms={("p", "a"): Room(0, refused())})

    [gate] = await world.look("a", "b")

    limit = "requests per minute of provider p"
    assert gate == Gate("proving.first", "a", 0, NOW + timedelta(seconds=30), f"{limit}: 30 of 30 used", (limit,))


async def test_what_a_limit_has_free_is_shared_out_over_its_models():
    """Three models of one provider together go out no more often than it allows; each of them does at least once."""
    refusal = refused()
    world = World(rooms={("p", key): Room(10, refusal) for key in "abc"} | {("p", "d"): Room(NO_GATE_FROM, refusal)})

    gates = await world.look("a", "b", "c", "d")

    assert [(gate.key, gate.free) for gate in gates] == [("a", 3), ("b", 3), ("c", 3)]
    world.rooms = {("p", key): Room(1, refusal) for key in "abc"}
    assert [gate.free for gate in await world.look("a", "b", "c")] == [1, 1, 1]


async def test_the_next_jobs_of_a_name_that_nobody_has_yet_are_kept_back():
    """People are not told, and it takes nothing from the names that jobs have."""
    refusal = refused()
    world = World(rooms={("p", key): Room(10, refusal) for key in "ab"}, known=["a", "b", "c"])

    gates = await world.look("a")

    assert [(gate.key, gate.free, gate.has_jobs) for gate in gates] == [("a", 10, True), ("b", 10, False)]


async def test_names_without_jobs_are_looked_at_less_often(monkeypatch):
    """Until then, what was found holds, unless a job has come."""
    monkeypatch.setattr(gates_module, "KNOWN_NAMES_SECONDS", 3_600.0)
    world = World(rooms={("p", key): Room(0, refused()) for key in "ab"}, known=["a", "b"])
    await world.look("a")
    assert [path.model for path in world.asked] == ["a", "b"]

    gates = await world.look("a")
    assert [path.model for path in world.asked] == ["a"]
    assert [(gate.key, gate.has_jobs) for gate in gates] == [("a", True), ("b", False)]

    assert [(gate.key, gate.has_jobs) for gate in await world.look("b")] == [("b", True)]


async def test_an_outage_closes_the_gate_and_lets_one_job_ask_when_it_has_passed():
    """While that one asks, it is closed again. An outage of one model holds no other."""
    until = NOW + timedelta(seconds=5)
    world = World(pauses={"http://p|a": Pause("http://p|a", until, "answered 503", False, False)})

    [gate] = await world.look("a", "b")

    assert (gate.key, gate.free, gate.until) == ("a", 0, until)
    assert gate.reason == "provider http://p, model a is away (answered 503)"
    assert gate.causes == ("provider http://p",)
    world.pauses = {"http://p": Pause("http://p", until, "refused", True, False)}
    assert [(one.key, one.free) for one in await world.look("a")] == [("a", 1)]
    world.pauses = {"http://p": Pause("http://p", until, "refused", True, True)}
    assert [(one.key, one.free) for one in await world.look("a")] == [("a", 0)]


async def test_a_probe_does_not_go_beyond_a_limit():
    """The outage has passed, the limit is full: nobody goes."""
    world = World(
        rooms={("p", "a"): Room(0, refused())},
        pauses={"http://p": Pause("http://p", NOW, "refused", True, False)},
    )

    assert [gate.free for gate in await world.look("a")] == [0]


async def test_a_key_without_quota_and_a_provider_that_operators_paused_are_closed():
    """The first until its pause ends, the second until somebody resumes it."""
    world = World(
        providers={"q": Provider("q", paused_at=NOW, paused_reason="too expensive")},
        paths={"b": [Step("q", "b")]},
        pauses={"key of p": Pause("key of p", NOW, "insufficient_quota", False, False)},
    )

    first, second = await world.look("a", "b")

    assert (first.free, first.reason) == (0, "provider key of p is away (insufficient_quota)")
    assert (second.free, second.until) == (0, None)
    assert second.reason == "provider q is paused by operators (too expensive)"


async def test_a_route_with_a_fallback_is_open_while_any_of_its_steps_is():
    """It is closed when all are, until the first of them opens."""
    steps = [Step("p", "m"), Step("q", "n")]
    world = World(paths={"route:r": steps}, rooms={("p", "m"): Room(0, refused(seconds=30))})
    assert await world.look("route:r") == []

    world.rooms["q", "n"] = Room(4, refused("tokens per minute of provider q"))
    assert [gate.free for gate in await world.look("route:r")] == [4]

    world.rooms["q", "n"] = Room(0, refused("tokens per minute of provider q", seconds=10))
    [gate] = await world.look("route:r")
    assert (gate.free, gate.until) == (0, NOW + timedelta(seconds=10))
    assert set(gate.causes) == {"requests per minute of provider p", "tokens per minute of provider q"}


async def test_jobs_of_a_route_that_does_not_exist_go_out():
    """Their handler tells them what is wrong; the offline evaluator has no limits."""
    world = World(providers={"o": Provider("o", is_offline=True)}, paths={"rules": [Step("o", "rules")]})

    assert await world.look("route:gone", "rules") == []
    assert world.asked == []


async def test_a_stage_of_embeddings_has_one_gate_for_all_of_its_jobs():
    """Its model is that of the route."""
    stage = replace(registry["proving.second"], calls="embeddings")
    world = World(rooms={("e", ""): Room(0, refused())})

    [gate] = await world.look(stage=stage)

    assert (gate.stage, gate.key, gate.free) == ("proving.second", None, 0)
