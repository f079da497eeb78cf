"""A document is checked against a schema: every error has its path, and references are never fetched."""

import pytest

from tests.support.fakes.mcp import SERVER
from workers.assessment.server_schema import OWN_SCHEMA, check_server
from workers.judging.json_schema import MAX_ERRORS_LISTED, json_path
from workers.runtime.handler.errors import Permanent


def errors(document, schema=None):
    return {error.path: error.rule for error in check_server(document, schema).errors}


def test_a_complete_description_is_valid_by_our_own_schema():
    """Gristmill's own schema is used if the request has none."""
    checked = check_server(SERVER, None)

    assert (checked.valid, checked.error_count, checked.errors, checked.against) == (True, 0, [], OWN_SCHEMA)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"name": None}, {"$.name": "type"}),
        ({"name": "files"}, {"$.name": "pattern"}),
        ({"description": ""}, {"$.description": "minLength"}),
        ({"repository": {"url": "not a url"}}, {"$.repository": "required", "$.repository.url": "format"}),
        ({"repository": {"url": "ftp://a.test/x", "source": "github"}}, {"$.repository.url": "pattern"}),
        ({"version_detail": {"version": "1", "release_date": "May"}}, {"$.version_detail.release_date": "format"}),
        (
            {"packages": [SERVER["packages"][0], {"name": "x", "version": ""}]},
            {"$.packages[1]": "required", "$.packages[1].version": "minLength"},
        ),
        (
            {"remotes": [{"transport_type": "sse", "url": "https://a.test/sse", "headers": [{}]}]},
            {"$.remotes[0].headers[0]": "required"},
        ),
    ],
)
def test_every_error_is_listed_at_its_place(changes, found):
    """All errors are listed with JSON path and rule."""
    listed = errors({**SERVER, **changes})

    assert {path: rule for path, rule in listed.items() if path in found} == found


def test_a_version_may_be_said_in_either_form():
    """Revisions of the format differ here; one of both members is required."""
    plain = {key: value for key, value in SERVER.items() if key != "version_detail"}

    assert errors(plain) == {"$": "anyOf"}
    assert errors({**plain, "version": "1.0.2"}) == {}


def test_a_published_schema_comes_with_the_request():
    """The result names the schema by its title."""
    schema = {"title": "Server Detail", "required": ["name", "remotes"], "properties": {"name": {"enum": ["a"]}}}

    checked = check_server(SERVER, schema)

    assert checked.against == "Server Detail"
    assert {error.path: error.rule for error in checked.errors} == {"$.name": "enum", "$": "required"}


def test_more_errors_than_anyone_reads_are_counted():
    """At most 100 errors are listed; the count includes all."""
    checked = check_server({"items": [1] * 250}, {"properties": {"items": {"items": {"type": "string"}}}})

    assert (checked.valid, checked.error_count, len(checked.errors)) == (False, 250, MAX_ERRORS_LISTED)


def test_a_message_stays_short_whatever_the_document_holds():
    """An error can quote a long value, so messages are cut."""
    [error] = check_server({"name": "x" * 50_000}, {"properties": {"name": {"type": "integer"}}}).errors

    assert len(error.message) <= 300


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "no such type"}, "options.schema is not usable as a JSON Schema: "),
        (
            {"$ref": "https://schemas.test/server.json"},
            "references are never fetched, put 'https://schemas.test/server.json'",
        ),
        ({"$ref": "file:///etc/hostname"}, "references are never fetched"),
        ({"$schema": "https://schemas.test/draft"}, "options.schema is not usable as a JSON Schema: "),
        ({"$ref": "#/$defs/absent"}, "options.schema is not usable as a JSON Schema: "),
        ({"pattern": "(unclosed"}, "options.schema is not usable as a JSON Schema: "),
        ({"pattern": "(?=look)ahead"}, "options.schema is not usable as a JSON Schema: "),
        ({"pattern": "(a{1000}){1000}"}, "options.schema is not usable as a JSON Schema: "),
    ],
)
def test_a_schema_that_cannot_be_used_is_one_clear_line(schema, said):
    """Such a schema is a permanent error: nothing is fetched, and patterns run in linear time."""
    with pytest.raises(Permanent) as raised:
        check_server(SERVER, schema)

    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_schema_that_refers_to_itself_ends():
    """A recursive schema is valid."""
    tree = {
        "$ref": "#/$defs/node",
        "$defs": {"node": {"properties": {"next": {"$ref": "#/$defs/node"}}, "type": "object"}},
    }

    assert errors({"next": {"next": 1}}, tree) == {"$.next.next": "type"}


def test_paths_quote_what_is_no_plain_name():
    """A quoted name is still a valid JSON path."""
    assert json_path(["packages", 0, "a b", "c"]) == '$.packages[0]["a b"].c'
