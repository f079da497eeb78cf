"""Descriptions of MCP servers: the schema check, the fixed rules and the judgement, also for real descriptions."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gristmill_testing.model import ScriptedModel
from tests.support.fakes.judge import said
from tests.support.fakes.mcp import SERVER
from tests.support.paths import SHARED_DATA
from workers.assessment.mcp_findings import findings
from workers.assessment.registry import AssessorTools, perform
from workers.assessment.request import parse_request
from workers.llm.offline import OfflineEvaluator
from workers.runtime.handler.rule_based import NOTE

DATA = SHARED_DATA
REGISTRY, PUBLISHED = DATA / "mcp_registry_300.json", DATA / "mcp_server_schema.json"
WITHOUT_SECRETS = said(naming=80, description=80, installability=80, repository=80, version=80)
KEY = {"name": "ACME_API_KEY", "description": "the key"}


async def assessed(server, llm=None, **options):
    progress = []

    async def report(share):
        progress.append(share)

    request = parse_request(
        {"serverName": "acme", "assessmentType": "mcp_server", "options": {"server": server, **options}}
    )
    result = await perform(
        request, AssessorTools(llm=llm or ScriptedModel(WITHOUT_SECRETS), progress=report, last_attempt=False)
    )
    assert progress == sorted(progress)
    assert progress[-1] == pytest.approx(1.0)
    return result


def with_variables(*variables):
    return {**SERVER, "packages": [{**SERVER["packages"][0], "environment_variables": list(variables)}]}


async def test_a_valid_description_is_judged_by_schema_rules_and_model():
    """Each criterion is listed with its weight, and with whether a rule or a model decided it."""
    result = await assessed(SERVER)

    by_rule = {one.name: one.score for one in result.criteria if one.rule_based}
    assert by_rule == {"schema": 1.0, "rules": 1.0 - 0.2}
    assert {one.name for one in result.criteria if not one.rule_based} == {
        one["name"] for one in WITHOUT_SECRETS["criteria"]
    }
    weighted = sum(one.score * one.weight for one in result.criteria) / sum(one.weight for one in result.criteria)
    assert result.score == pytest.approx(weighted, abs=1e-4)
    assert (result.verdict, result.rule_based) == ("excellent", False)
    assert "the description has only 13 characters" in result.flags


async def test_a_broken_schema_makes_it_invalid_whatever_its_quality():
    """A good judgement does not change the verdict; the errors are listed with their paths."""
    result = await assessed({**SERVER, "version_detail": {}, "name": "acme"})

    assert result.verdict == "invalid"
    assert result.schema_check is not None
    assert {error.path for error in result.schema_check.errors} == {"$.name", "$.version_detail"}
    assert result.criteria[0].name == "schema"
    assert result.criteria[0].score == 0.0
    assert "in 2 places" in result.criteria[0].reasoning


async def test_secrets_are_judged_only_where_there_are_some():
    """A server without variables or headers is not judged on secrets."""
    plain = ScriptedModel(WITHOUT_SECRETS)
    keyed = ScriptedModel(said(naming=1, description=1, installability=1, repository=1, secrets=1, version=1))

    without = await assessed(SERVER, plain)
    with_key = await assessed(with_variables(KEY), keyed)

    assert "secrets" not in {one.name for one in without.criteria}
    assert "secrets not judged: there is no variable or header to set" in without.flags
    assert "secrets" in {one.name for one in with_key.criteria}


@pytest.mark.parametrize(
    ("variable", "found"),
    [
        (KEY, ["packages[0].environment_variables[0]: ACME_API_KEY looks like a secret and is not marked is_secret"]),
        ({**KEY, "is_secret": True}, []),
        ({"name": "githubToken", "description": "t"}, ["packages[0].environment_variables[0]: githubToken looks like"]),
        ({"name": "PORT", "description": ""}, ["packages[0].environment_variables[0]: PORT has no description"]),
        ({"name": "MONKEY", "description": "an animal"}, []),
        ({"name": "A", "description": "d", "default": "ghp_" + "a1" * 18}, ["A seems to hold a live secret"]),
        ({"name": "ghp_" + "a1" * 18, "description": "d"}, ["(hidden) seems to hold a live secret"]),
    ],
)
def test_rules_notice_careless_secrets(variable, found):
    """Secrets are found by name and by form, and their value is never shown."""
    noticed = [one for one in findings(with_variables(variable)) if "environment_variables" in one]

    assert len(noticed) == len(found)
    assert all(part in line for part, line in zip(found, noticed, strict=True))
    assert "a1a1" not in "".join(noticed)


def test_rules_notice_what_nobody_could_install():
    """No package, no remote, no repository, and an unencrypted address are findings."""
    noticed = findings({"name": "x", "remotes": [], "repository": {"url": "http://a.test/x"}})

    assert "neither a package nor a remote: nobody can use it" in noticed
    assert "repository: its address is not encrypted (http)" in noticed
    assert "the name is not of the form namespace/server with a reverse-DNS namespace" in noticed


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*SERVER, "remotes", "name", "url"]), inner, max_size=4)
    ),
    max_leaves=15,
)


@given(st.dictionaries(st.sampled_from([*SERVER, "remotes", "version"]), JSON, max_size=6))
def test_rules_read_documents_of_any_shape(document):
    """Parts of another shape are skipped, because the schema check reports them."""
    assert all(len(line) < 300 for line in findings(document))


@given(st.text(), st.text())
def test_a_finding_is_one_line_whatever_the_names(name, description):
    """A long or multi-line name is shortened to one line."""
    lines = findings(with_variables({"name": name, "description": description}))

    assert all("\n" not in line and len(line) < 300 for line in lines)


def registry():
    if not REGISTRY.exists():
        pytest.skip(f"needs the published descriptions: {REGISTRY.name} is not in ../shared/data")
    return json.loads(REGISTRY.read_text())


@pytest.mark.parametrize("published", [False, True], ids=["our schema", "published schema"])
async def test_three_hundred_real_descriptions_get_different_results_offline(published):
    """Without a provider every description gets a result, results differ, and each says that no AI judged."""
    servers = registry()
    options: dict[str, Any] = {"schema": json.loads(PUBLISHED.read_text())} if published else {}

    results = [await assessed(server, OfflineEvaluator(), **options) for server in servers]

    assert len(results) >= 50
    assert all((one.note, one.rule_based) == (NOTE, True) for one in results)
    assert all((one.verdict == "invalid") != (one.criteria[0].score == 1) for one in results)
    assert len({one.score for one in results}) > len(results) / 2
    assert max(one.score for one in results) - min(one.score for one in results) > 0.5
    assert len({one.verdict for one in results}) >= 3
    for criterion in ("naming", "description", "installability", "repository", "version"):
        assert len({one.score for result in results for one in result.criteria if one.name == criterion}) > 20


async def test_real_empty_descriptions_end_at_the_bottom():
    """Six entries of the published registry are empty. No other entry gets a lower score."""
    scored = [((await assessed(server, OfflineEvaluator())).score, server["description"]) for server in registry()]

    lowest = sorted(scored)[:6]
    assert {description for _, description in lowest} == {""}
