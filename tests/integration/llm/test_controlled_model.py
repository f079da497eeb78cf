"""The model that handlers get, against real HTTP servers: routes, fallback, and what becomes of every call."""

import asyncio
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from gristmill_testing.waiting import until
from tests.support.fakes.openai_server import FakeOpenAI
from tests.support.llm_control import Ledger
from workers.judging.answers import answer_to
from workers.llm.calls import NotAdmittedError
from workers.llm.controlled import ControlledModel
from workers.llm.pauses import Gate
from workers.llm.provider import ClientOptions, controlled
from workers.llm.routing.following import Seen
from workers.llm.routing.routing import Provider, Route, Routing, Step
from workers.llm.routing.virtual import Environment, merged
from workers.runtime.handler.context import Run, current_deadline, current_run
from workers.runtime.handler.errors import Permanent, RateLimited, Refused, Unavailable
from workers.runtime.handler.ports import one_model
from workers.scoring.question import build_question
from workers.scoring.score import ScoreAnswer

QUESTION = build_question(
    "Judge.\n\nCriteria:\n- use (60): solves a problem\n- clarity (40): plain words", name="a", attributes={}
)
INTO = answer_to((one.name for one in QUESTION.criteria), form=ScoreAnswer)
OPTIONS = ClientOptions(connect_timeout=2.0, timeout=5.0, max_connections=64)
FIRST = timedelta(seconds=0.1)


@pytest.fixture
def first() -> Iterator[FakeOpenAI]:
    """The server that is asked first."""
    with FakeOpenAI() as fake:
        yield fake


@pytest.fixture
def second() -> Iterator[FakeOpenAI]:
    """The server that is asked if the first one cannot answer."""
    with FakeOpenAI() as fake:
        yield fake


@pytest.fixture
def ledger() -> Ledger:
    """What is admitted, and what became of it."""
    return Ledger()


def routing_to(*servers: FakeOpenAI, route: str = "default", **step) -> Routing:
    """Return a routing whose one route asks these servers in their order: ``p0`` for model ``m0``, and so on."""
    names = [f"p{place}" for place in range(len(servers))]
    providers = [
        Provider(name=name, kind="compatible", base_url=server.url, api_key=f"k-{name}")
        for name, server in zip(names, servers, strict=True)
    ]
    steps = tuple(Step(provider=name, model=f"m{place}", **step) for place, name in enumerate(names))
    return merged(Environment(), None, providers=providers, routes=[Route(name=route, serves="chat", steps=steps)])


@pytest.fixture
async def model_of(ledger):
    """Make a model that follows a routing; it is closed with the test."""
    made: list[ControlledModel] = []

    def make(
        routing: Routing, *, options: ClientOptions = OPTIONS, gate: Gate | None = None, **more
    ) -> ControlledModel:
        gate = gate or Gate(first=FIRST, longest=FIRST, draw=lambda: 0.0)
        more = {"control": ledger.control, "look": partial(seen, routing)} | more
        made.append(controlled(options=options, gate=gate, **more))
        return made[-1]

    yield make
    for one in made:
        await one.aclose()


async def seen(routing: Routing) -> Seen:
    return Seen(routing)


async def parse(model, /, **changes):
    return await model.parse(QUESTION.messages, **{"into": INTO, "model": "gpt-3.5-turbo"} | changes)


@contextmanager
def run_with(seconds: float):
    """Be a run that has so much time left."""
    run = current_run.set(Run("scoring.score", uuid.uuid4(), 1, 1))
    due = current_deadline.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        current_run.reset(run)
        current_deadline.reset(due)


# ── every call is accounted for ──────────────────────────────────────────────────────────────────────────────────────


async def test_an_answer_is_settled_with_its_usage(first, ledger, model_of):
    """For whom, of which provider, by which step: what the ledger keeps."""
    with run_with(60):
        answer = await parse(model_of(routing_to(first)))

    (call,) = ledger.reserved
    assert ledger.states == ["settled"]
    assert (call.provider, call.model, call.route, call.step, call.kind) == ("p0", "m0", "default", 0, "chat")
    assert call.caller.stage == "scoring.score"
    assert call.input_tokens > 100
    assert ledger.usages[call.id].input_tokens == answer.prompt_tokens == 100
    assert (ledger.usages[call.id].output_tokens, ledger.usages[call.id].served_model) == (20, "m0")
    assert answer.path == ()


async def test_a_reask_is_a_call_of_its_own(first, ledger, model_of):
    """An invalid answer is paid for as well."""
    first.script(queue=[{"kind": "malformed"}])

    answer = await parse(model_of(routing_to(first)))

    assert ledger.states == ["settled", "settled"]
    assert ledger.sums() == {"input": answer.prompt_tokens, "output": answer.completion_tokens}


@pytest.mark.parametrize(
    ("behaviour", "state"),
    [
        ({"kind": "status", "status": 500}, "failed"),
        ({"kind": "status", "status": 400, "message": "bad"}, "failed"),
        ({"kind": "html"}, "failed"),
        ({"kind": "error_200"}, "failed"),
        ({"kind": "refusal"}, "settled"),  # it has a usage, whatever else it says
        ({"kind": "filtered"}, "settled"),
        ({"kind": "disconnect"}, "charged"),
        ({"kind": "hang"}, "charged"),
    ],
)
async def test_what_gives_no_answer_is_charged_only_if_it_may_have_cost(first, ledger, model_of, behaviour, state):
    """A provider that says no charges nothing; one that was cut off may."""
    first.script(default=behaviour)
    options = ClientOptions(connect_timeout=2.0, timeout=0.4, max_connections=4)

    with pytest.raises((Unavailable, Permanent)):
        await parse(model_of(routing_to(first), options=options))

    assert ledger.states == [state]


async def test_what_was_not_sent_is_given_back(first, ledger, model_of):
    """A provider that is found away after the call was admitted; a server where nobody listens charges nothing."""
    nobody = Provider(name="p0", kind="compatible", base_url="http://127.0.0.1:9/v1")
    routing = routing_to(first)
    routing.providers["p0"] = nobody  # type: ignore[index]

    results = await asyncio.gather(*(parse(model_of(routing)) for _ in range(3)), return_exceptions=True)

    assert {type(one) for one in results} == {Unavailable}
    assert set(ledger.states) <= {"failed", "released"}
    assert len(ledger.states) == len(ledger.reserved)


async def test_a_cancelled_call_keeps_its_estimate(first, ledger, model_of):
    """Row 16: what was sent and not waited for is not free."""
    first.script(default={"kind": "hang"})
    call = asyncio.create_task(parse(model_of(routing_to(first))))
    await until(lambda: first.snapshot()["in_flight"] == 1)

    call.cancel()

    with pytest.raises(asyncio.CancelledError):
        await call
    assert ledger.states == ["charged"]


async def test_an_answer_without_usage_leaves_it_open(first, ledger, model_of):
    """Row 16: no count is no zero."""
    first.script(default={"kind": "no_usage"})

    await parse(model_of(routing_to(first)))

    (usage,) = ledger.usages.values()
    assert (usage.input_tokens, usage.output_tokens, usage.raw) == (None, None, None)


async def test_nothing_is_called_while_admission_cannot_be_asked(first, ledger, model_of):
    """Row 10: if the rows of the limits cannot be read or written, no provider is called."""
    ledger.broken = ConnectionError("Postgres is away")

    with pytest.raises(ConnectionError):
        await parse(model_of(routing_to(first)))

    assert first.calls == 0


async def test_max_tokens_is_always_sent(first, ledger, model_of):
    """Row 21: without it a provider reserves the model's maximum and asks to be paid for it."""
    model = model_of(routing_to(first))
    await parse(model)
    await parse(model, max_tokens=77)
    bounded = model_of(routing_to(first, max_tokens=55, context_tokens=10_000))
    await parse(bounded)

    sent = [one["max_tokens"] for one in first.requests]
    assert sent[0] > 100
    assert sent[1:] == [77, 55]
    assert [one.output_tokens for one in ledger.reserved] == sent


# ── 429: everybody is quiet, and the call keeps its turn ─────────────────────────────────────────────────────────────


async def test_a_429_cools_the_model_down_and_the_call_waits_in_its_run(first, second, ledger, model_of):
    """Row 15: it is no failure of the breaker, and no attempt of the job."""
    first.script(queue=[{"kind": "status", "status": 429, "retry_after": "0.5"}])
    gate = Gate(first=FIRST, longest=FIRST)

    with run_with(60):
        answer = await parse(model_of(routing_to(first), gate=gate))

    assert answer.model == "m0"
    assert ledger.cooldowns == [("p0", "m0", timedelta(seconds=0.5))]
    assert ledger.states == ["failed", "settled"]
    await gate.check(first.url, "m0")  # nobody is away


async def test_a_429_that_comes_again_and_again_doubles_its_wait(first, ledger, model_of):
    """A server that asks for half a second each time is not asked twice a second by everybody."""
    first.script(queue=[{"kind": "status", "status": 429, "retry_after": "0.5"}] * 3)

    with run_with(60):
        await parse(model_of(routing_to(first)))

    assert [delay for *_, delay in ledger.cooldowns] == [timedelta(seconds=wait) for wait in (0.5, 1, 2)]


async def test_refusals_of_calls_that_were_under_way_together_do_not_double_the_wait(first, ledger, model_of):
    """Of a burst that goes beyond a limit many are refused at once: the provider was asked again by none of them."""
    refused = {"kind": "status", "status": 429, "retry_after": "0.5", "delay_ms": 100}
    first.script(queue=[refused] * 8)
    model = model_of(routing_to(first))
    with run_with(60):
        answers = await asyncio.gather(*(parse(model) for _ in range(8)))

    assert len(answers) == 8
    assert {delay for *_, delay in ledger.cooldowns} == {timedelta(seconds=0.5)}
    assert first.calls == 16


async def test_a_wait_that_is_longer_than_the_run_is_a_snooze_that_names_the_limit(first, ledger, model_of):
    """Row 24: nobody sleeps a minute in a process; the refusal says which limit and for how long."""
    first.script(default={"kind": "status", "status": 429, "retry_after": "60"})

    with run_with(20), pytest.raises(NotAdmittedError) as refusal:
        await parse(model_of(routing_to(first)))

    assert refusal.value.limit == "cooldown of p0"
    assert timedelta(seconds=55) < refusal.value.delay <= timedelta(seconds=60)
    assert first.calls == 1


async def test_a_limit_per_day_waits_for_its_reset(first, ledger, model_of):
    """Row 24: it is not tried again for hours."""
    said = "Rate limit exceeded: free-models-per-day"
    reset = datetime.now(UTC) + timedelta(hours=7)
    headers = {"x-ratelimit-reset": str(int(reset.timestamp() * 1_000))}
    first.script(default={"kind": "status", "status": 429, "message": said, "headers": headers})

    with run_with(60), pytest.raises(NotAdmittedError) as refusal:
        await parse(model_of(routing_to(first)))

    assert timedelta(hours=6.9) < refusal.value.delay <= timedelta(hours=7)
    assert any("limit per day" in reason for reason in ledger.reasons)


async def test_no_call_is_begun_without_time_for_it(first, ledger, model_of):
    """A run that is nearly over is handed back, and the next one has all of its time."""
    first.script(default={"kind": "answer", "delay_ms": 800})
    model = model_of(routing_to(first))
    with run_with(60):
        await parse(model)
        current_deadline.set(time.monotonic() + 0.15)
        with pytest.raises(NotAdmittedError) as refusal:
            await parse(model)

    assert refusal.value.limit == "time of the run"
    assert "no call is begun with 0.1 s of its run left" in str(refusal.value)
    assert (first.calls, len(ledger.reserved)) == (1, 1)


async def test_a_run_that_is_short_from_the_start_is_given_its_chance(first, ledger, model_of):
    """Half of its time is enough: another run would have no more."""
    first.script(default={"kind": "answer", "delay_ms": 300})

    with run_with(1.2):
        await parse(model_of(routing_to(first)))

    assert ledger.states == ["settled"]


# ── fallback ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_route_falls_back_and_says_so(first, second, ledger, model_of):
    """Who answered, and why the one before did not, is in the answer and in the ledger."""
    first.script(default={"kind": "status", "status": 503})

    answer = await parse(model_of(routing_to(first, second)))

    assert answer.model == "m1"
    assert [(one["provider"], one["model"]) for one in answer.path] == [("p0", "m0"), ("p1", "m1")]
    assert "HTTP 503" in answer.path[0]["why_not"]
    assert "why_not" not in answer.path[1]
    assert [(call.provider, call.step, state) for call, state in ledger.ended] == [
        ("p0", 0, "failed"),
        ("p1", 1, "settled"),
    ]


async def test_an_open_breaker_is_not_asked_first(first, second, ledger, model_of):
    """Row 15: as long as its pause lasts, the second step is asked at once."""
    first.script(default={"kind": "status", "status": 503})
    model = model_of(routing_to(first, second), gate=Gate(first=timedelta(minutes=1)))

    for _ in range(3):
        assert (await parse(model)).model == "m1"

    assert (first.calls, second.calls) == (1, 3)


async def test_a_path_is_fixed_and_each_step_is_visited_once(first, second, ledger, model_of):
    """Row 13: with all of them away there is no circle; the job waits for the one that is back first."""
    for server in (first, second):
        server.script(default={"kind": "status", "status": 503})

    with pytest.raises(Unavailable):
        await parse(model_of(routing_to(first, second)))

    assert (first.calls, second.calls) == (1, 1)


async def test_one_budget_of_attempts_for_the_whole_path(first, second, ledger, model_of):
    """Row 13: a fallback does not begin the count anew."""
    for server in (first, second):
        server.script(default={"kind": "status", "status": 500})

    with pytest.raises(Unavailable):
        await parse(model_of(routing_to(*[first, second] * 5)))

    assert first.calls + second.calls <= 6


async def test_every_failed_attempt_feeds_the_breaker(first, ledger, model_of):
    """Row 14: three different questions that fail pause the model, also where it is the only step."""
    first.script(default={"kind": "status", "status": 500})
    model = model_of(routing_to(first), gate=Gate(first=timedelta(minutes=1)))
    for place in range(11):
        messages = [*QUESTION.messages, {"role": "user", "content": f"{place}"}]
        with pytest.raises(Unavailable):
            await model.parse(messages, into=INTO, model="gpt-3.5-turbo")

    assert first.calls == 3


@pytest.mark.parametrize("behaviour", [{"kind": "refusal"}, {"kind": "status", "status": 400, "message": "no"}])
async def test_a_refused_question_is_asked_of_nobody_else(first, second, ledger, model_of, behaviour):
    """It says nothing about the provider."""
    first.script(default=behaviour)

    with pytest.raises(Permanent) as refusal:
        await parse(model_of(routing_to(first, second)))

    assert isinstance(refusal.value, Refused) == (behaviour["kind"] == "refusal")
    assert second.calls == 0


async def test_a_long_limit_falls_back_and_a_short_one_waits(first, second, ledger, model_of):
    """Row 15: a 429 may fall back. A second's wait is no reason to ask another model."""
    model = model_of(routing_to(first, second))
    first.script(queue=[{"kind": "status", "status": 429, "retry_after": "0.5"}])
    assert (await parse(model)).model == "m0"
    first.script(queue=[{"kind": "status", "status": 429, "retry_after": "60"}])

    assert (await parse(model)).model == "m1"


async def test_a_spent_budget_falls_back_on_nobody(first, second, ledger, model_of):
    """Money is spent whoever answers."""
    spent = NotAdmittedError("spent", delay=timedelta(hours=3), limit="budget b", is_budget=True)
    ledger.refusals = [spent]

    with pytest.raises(NotAdmittedError) as refusal:
        await parse(model_of(routing_to(first, second)))

    assert refusal.value is spent
    assert first.calls + second.calls == 0


async def test_a_job_that_names_its_model_is_answered_by_no_other(first, second, ledger, model_of):
    """Never a silent fallback: the steps with that model, or the first provider asked for it."""
    first.script(default={"kind": "status", "status": 503})
    model = model_of(routing_to(first, second))

    with pytest.raises(Unavailable):
        await parse(model, model="m0")
    with pytest.raises(Unavailable):
        await parse(model, model="another")
    assert (await parse(model, model="m1")).model == "m1"


async def test_stages_that_compare_models_refuse_a_fallback(first, second, ledger, model_of):
    """One clear line, before anything is asked; a named model goes on."""
    model = model_of(routing_to(first, second))
    token = one_model.set(True)
    try:
        for call in (model.resolve("gpt-3.5-turbo"), parse(model)):
            with pytest.raises(
                Permanent, match="2 may answer by route 'default': name one model, or a route of one step"
            ):
                await call
        assert (await parse(model, model="m1")).model == "m1"
    finally:
        one_model.reset(token)


async def test_a_job_may_name_its_route(first, second, ledger, model_of):
    """``route:NAME`` in place of a model; a name that nobody knows is the job's own fault."""
    model = model_of(routing_to(first, route="fast"))

    assert (await parse(model, model="route:fast")).model == "m0"
    with pytest.raises(Permanent, match=r"route 'slow' is no route for chat; routes: default, fast"):
        await parse(model, model="route:slow")


async def test_a_route_that_was_just_added_is_found(first, ledger, model_of):
    """The snapshot may be two seconds old; a job that names a new route is not failed for that."""
    looks = [merged(Environment(), None), routing_to(first, route="fast")]

    async def look() -> Seen:
        return Seen(looks.pop(0) if len(looks) > 1 else looks[0])

    model = model_of(looks[0], look=look, look_seconds=60)
    await model.resolve("m")

    assert (await parse(model, model="route:fast")).model == "m0"


async def test_the_identity_of_a_path_names_all_who_may_answer(first, second, ledger, model_of):
    """An answer by a fallback is not shared with jobs that have none; whether one is away changes no name."""
    model = model_of(routing_to(first, second))
    both = f"{first.url}|m0 or {second.url}|m1"

    assert await model.resolve("gpt-3.5-turbo") == both
    first.script(default={"kind": "status", "status": 503})
    await parse(model)
    assert await model.resolve("gpt-3.5-turbo") == both


# ── a key without money ──────────────────────────────────────────────────────────────────────────────────────────────

QUOTA = [
    pytest.param({"kind": "status", "status": 402}, id="402"),
    pytest.param({"kind": "status", "status": 429, "code": "insufficient_quota"}, id="insufficient_quota"),
]


@pytest.mark.parametrize("behaviour", QUOTA)
async def test_an_empty_account_pauses_its_key_alone(first, ledger, model_of, behaviour):
    """Row 21: no attempt is spent and nobody else asks; another key of the same server goes on."""
    first.script(default=behaviour)
    routing = routing_to(first, first)
    model = model_of(routing)
    for _ in range(3):
        with pytest.raises(RateLimited) as refusal:
            await parse(model, model="m0")
        assert not isinstance(refusal.value, Unavailable)
        assert "quota of provider p0 is used up since" in str(refusal.value)
        assert "`gristmill llm resume p0`" in str(refusal.value)
        assert refusal.value.delay > timedelta(minutes=4.9)
    assert first.calls == 1
    first.script(default={"kind": "answer"})

    assert (await parse(model, model="m1")).model == "m1"


async def test_an_empty_account_falls_back(first, second, ledger, model_of):
    """Jobs finish meanwhile, and say so."""
    first.script(default={"kind": "status", "status": 402})

    answer = await parse(model_of(routing_to(first, second)))

    assert answer.model == "m1"
    assert "quota of provider p0" in answer.path[0]["why_not"]


async def test_another_key_is_asked_at_once_and_the_jobs_are_woken(first, ledger, model_of):
    """A settings change ends the wait: the pause was of the old key."""
    first.script(default={"kind": "status", "status": 402})
    old = routing_to(first)
    new = routing_to(first)
    new.providers["p0"] = Provider(name="p0", kind="compatible", base_url=first.url, api_key="paid")  # type: ignore[index]
    current, woken = [old], []

    async def look() -> Seen:
        return Seen(current[0])

    async def wake(provider: Provider) -> None:
        woken.append(provider.name)

    model = model_of(old, look=look, look_seconds=0.0, wake=wake)
    with pytest.raises(RateLimited):
        await parse(model)
    first.script(default={"kind": "answer"})
    current[0] = new

    assert (await parse(model)).model == "m0"
    await until(lambda: woken == ["p0"])


async def test_a_provider_that_answers_again_wakes_its_jobs(first, ledger, model_of):
    """By the one call that probes."""
    woken: list[str] = []

    async def wake(provider: Provider) -> None:
        woken.append(provider.name)

    first.script(queue=[{"kind": "status", "status": 503}])
    model = model_of(routing_to(first), wake=wake)
    with pytest.raises(Unavailable):
        await parse(model)
    await asyncio.sleep(FIRST.total_seconds() * 1.5)

    await parse(model)

    await until(lambda: woken == ["p0"])


async def test_a_provider_that_operators_paused_is_not_asked(first, ledger, model_of):
    """Its jobs wait, without an attempt and without an end to their patience."""
    routing = routing_to(first)
    paused = Provider(
        name="p0", kind="compatible", base_url=first.url, paused_at=datetime.now(UTC), paused_reason="too dear"
    )
    routing.providers["p0"] = paused  # type: ignore[index]

    with pytest.raises(
        NotAdmittedError, match=r"provider p0 is paused since .* \(too dear\); `gristmill llm resume p0`"
    ):
        await parse(model_of(routing))

    assert first.calls == 0


# ── embeddings ───────────────────────────────────────────────────────────────────────────────────────────────────────


def embedding(server: FakeOpenAI, *steps: Step) -> Routing:
    provider = Provider(name="e", kind="compatible", base_url=server.url)
    return merged(
        Environment(),
        None,
        providers=[provider],
        routes=[Route(name="default-embeddings", serves="embeddings", steps=steps)],
    )


async def test_embeddings_have_a_provider_and_prefixes_of_their_own(first, ledger, model_of):
    """A prefix says whether a text is a document or a query; vectors of documents with another prefix are others."""
    step = Step(provider="e", model="e5", document_prefix="passage: ", query_prefix="query: ")
    model = model_of(embedding(first, step))
    name = await model.embedding_model()

    documents = await model.embed(["a", "b"], model=name)
    queries = await model.embed(["a"], model=name, purpose="query")

    assert name == documents.model == queries.model == "e5 ('passage: ')"
    asked = first.snapshot()["embeddings"]["requests"]
    assert [one["input"] for one in asked] == [["passage: a", "passage: b"], ["query: a"]]
    assert {one["model"] for one in asked} == {"e5"}
    assert [call.kind for call in ledger.reserved] == ["embeddings"] * 2
    assert ledger.states == ["settled"] * 2
    with pytest.raises(Permanent, match="an empty text"):
        await model.embed([" "], model=name)


async def test_embeddings_of_two_models_are_no_route(first, ledger, model_of):
    """Their vectors cannot be compared, so that neither may stand in for the other."""
    steps = Step(provider="e", model="e5"), Step(provider="e", model="bge")

    with pytest.raises(Unavailable, match="several embedding models"):
        await model_of(embedding(first, *steps)).embedding_model()


async def test_embeddings_with_two_query_prefixes_are_no_route(first, ledger, model_of):
    """The same query would find other records, depending on the step that answers."""
    steps = Step(provider="e", model="e5", query_prefix="query: "), Step(provider="e", model="e5")

    with pytest.raises(Unavailable, match="several embedding models or prefixes"):
        await model_of(embedding(first, *steps)).embedding_model()


async def test_vectors_that_were_there_are_in_the_ledger_as_cached(first, ledger, model_of):
    """C22: the row names the run's provider and model and the tokens that were saved; nobody is asked."""
    model = model_of(embedding(first, Step(provider="e", model="e5", document_prefix="passage: ")))

    await model.record_reused(40, model=await model.embedding_model())

    [(call, usage)] = ledger.cached
    assert (call.kind, call.provider, call.model, call.route) == ("embeddings", "e", "e5", "default-embeddings")
    assert (usage.input_tokens, usage.output_tokens) == (40, None)
    assert ledger.reserved == []


async def test_the_offline_evaluator_stands_in_for_nobody(first, ledger, model_of):
    """A route that mixes it with models cannot be taken."""
    routing = routing_to(first, first)
    routing.providers["p1"] = Provider(name="p1", kind="offline")  # type: ignore[index]

    with pytest.raises(Unavailable, match="mixes the offline evaluator"):
        await parse(model_of(routing))
