"""Two processes' models under one limit in Postgres: every call in its turn, none refused by the server."""

import asyncio
from collections import Counter
from functools import partial

from tests.support.admission import PriceList, Rows
from tests.support.fakes.openai_server import FakeOpenAI
from workers.judging.answers import answer_to
from workers.llm.admission.postgres_admission import PostgresAdmission
from workers.llm.admission.turns import Turns
from workers.llm.pauses import Gate
from workers.llm.ports import Control
from workers.llm.provider import ClientOptions, controlled
from workers.llm.routing.following import Seen
from workers.llm.routing.routing import Provider, Route, Step
from workers.llm.routing.virtual import Environment, merged
from workers.runtime.database import Database
from workers.scoring.question import build_question
from workers.scoring.score import ScoreAnswer

QUESTION = build_question("Judge.\n\nCriteria:\n- use: solves a problem", name="a", attributes={})
OPTIONS = ClientOptions(connect_timeout=2.0, timeout=10.0, max_connections=64)


async def test_calls_of_two_processes_keep_a_limit_and_all_are_answered(database_url, psql):
    """At most 10 in any 2 s, as the server saw them; the ledger has each with its usage."""
    rows = Rows(psql)
    rows.limit("requests", 10, 2, provider="p")
    with FakeOpenAI() as fake:
        provider = Provider(name="p", kind="compatible", base_url=fake.url)
        route = Route(name="default", serves="chat", steps=(Step(provider="p", model="m"),))
        routing = merged(Environment(), None, providers=[provider], routes=[route])

        async def look() -> Seen:
            return Seen(routing)

        processes = []
        for n in range(2):
            database = Database(database_url, changed_by=f"worker:{n}")
            admission = PostgresAdmission(database, None, PriceList())
            control = Control(admission=admission, turns=Turns(admission), learn=admission.learn)
            model = controlled(look=look, options=OPTIONS, gate=Gate(), control=control)
            processes.append((database, admission, model))
        into = answer_to(["use"], form=ScoreAnswer)
        ask = [partial(model.parse, QUESTION.messages, into=into, model="gpt-3.5-turbo") for *_, model in processes]
        answers = await asyncio.gather(*(ask[n % 2]() for n in range(40)))
        at = sorted(request["at"] for request in fake.snapshot()["requests"])
        for database, admission, model in processes:
            await model.aclose()
            await admission.aclose()
            await database.close()

    assert Counter(one.model for one in answers) == {"m": 40}
    assert all(at[n + 10] - at[n] > 1.9 for n in range(len(at) - 10))
    assert rows.states() == {"settled": 40}
