"""NaN and infinite numbers never reach JSON, a sort or an average."""

import json
import math
from uuid import UUID

import pytest
from sqlalchemy import text

from cli.output import print_json
from cli.values import parse_payload
from workers.analytics.agreement import Agreement, average
from workers.runtime.enqueue import EnqueueError, enqueue, enqueue_many
from workers.runtime.refusals import Refusal
from workers.vectorization.similar import NotComparable, Vector, similar


def refuse(word):
    raise AssertionError(f"{word} in JSON")


def test_printed_json_is_strict(capsys):
    """NaN and infinite numbers become null, however deep they are."""
    print_json({"a": math.nan, "b": [math.inf, {"c": -math.inf}], "d": 1.5})

    printed = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert printed == {"a": None, "b": [None, {"c": None}], "d": 1.5}


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
def test_a_payload_with_nan_or_infinity_is_refused(number):
    """JSON has no such number."""
    with pytest.raises(Refusal, match="is not a JSON number"):
        parse_payload(f'{{"a": [{number}]}}')


async def test_the_python_door_refuses_it_in_one_line(session):
    """Also if it is nested: in a single job, in a batch, and in a copied batch."""
    request = {
        "assessment_id": "a",
        "request_data": {"serverName": "s", "assessmentType": "mcp_server", "options": {"server": {"n": [math.nan]}}},
    }

    with pytest.raises(EnqueueError, match=r"request_data.options.server.n.0 must be a finite number, got nan"):
        await enqueue(session, "assessment.assess", request)
    many = [{**request, "assessment_id": f"a{n}"} for n in range(150)]
    with pytest.raises(EnqueueError, match=r"request_data.options.server.n.0 must be a finite number, got nan"):
        await enqueue_many(session, "assessment.assess", many)


def test_a_job_with_nan_is_shown_in_strict_json(gristmill, psql):
    """A column of floats may contain NaN."""
    row = psql.execute("INSERT INTO proving.plain_jobs (seconds) VALUES ('NaN') RETURNING id").fetchone()

    code, output, _ = gristmill("jobs", "show", str(row["id"]), "--json")

    assert code == 0
    assert json.loads(output, parse_constant=refuse)["values"]["seconds"] is None


async def test_a_vector_with_nan_is_no_match_and_stops_no_search(session):
    """With and without pgvector. It would be the best match, or make every search fail."""
    project = await session.scalar(text("INSERT INTO operations.projects (name) VALUES ('p') RETURNING id"))
    ids = {}
    vectors = {"good": "{1,0}", "far": "{0,1}", "nan": "{NaN,0}", "inf": "{Infinity,1}", "zero": "{0,0}"}
    for name, vector in vectors.items():
        ids[name] = await session.scalar(
            text("""INSERT INTO operations.data_records
                      ("projectId", type, source, content, embedding, "embeddingModel")
                    VALUES (:project, 'TASK', 's', :name, CAST(:vector AS real[]), 'm') RETURNING id"""),
            {"project": project, "name": name, "vector": vector},
        )

    found = await similar(session, to=Vector([1.0, 0.0], "m"), project_id=project, exact=True)

    assert [match.record.content for match in found] == ["good", "far"]
    assert all(math.isfinite(match.similarity) for match in found)
    for name in ("nan", "inf", "zero"):
        with pytest.raises(NotComparable, match="has a vector without a direction"):
            await similar(session, to=UUID(str(ids[name])))


def test_an_average_leaves_out_nan_and_infinity():
    """A model without a kappa does not change the mean of the others."""
    one = Agreement(n=2, mean_difference=1.0, exact=0.5, within_one=1.0, kappa=0.5, kappa_undefined=None)
    other = Agreement(n=2, mean_difference=math.nan, exact=math.inf, within_one=1.0, kappa=None, kappa_undefined="x")

    assert average([one, other]).mean_difference == 1.0
    assert average([one, other]).exact == 0.5
