"""The SQL functions of the assessment store refuse a wrong value with field, rule and value."""

import psycopg
import pytest
from psycopg import errors

from tests.support.assessment_services import Connection, create, one, refused


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("'a', 'null'", "request_data must be a JSON object, got null"),
        ("'a', '[1]'", "request_data must be a JSON object, got array"),
        ("'a', '\"x\"'", "request_data must be a JSON object, got string"),
        ("'a', NULL", "request_data must be a JSON object, got nothing"),
        ("' ', '{}'", "assessment_id must not be empty, got ' '"),
        ("NULL, '{}'", "assessment_id must not be empty, got nothing"),
        ("repeat('x', 256), '{}'", "assessment_id must have at most 255 characters, got 256"),
        ("'a' || repeat(' ', 300), '{}'", "assessment_id must have at most 255 characters, got 301"),
        ("'a', '{}', 11", "priority must lie from 1 to 10, got 11"),
        ("'a', '{}', 5, 0", "timeout_seconds must lie from 1 to 2678400, got 0"),
        ("'a', '{}', 5, 2147483647", "timeout_seconds must lie from 1 to 2678400, got 2147483647"),
    ],
)
def test_a_creation_is_refused_by_field_rule_and_value(alice: Connection, arguments: str, line: str) -> None:
    """Nothing is created."""
    with refused(psycopg.Error, line):
        alice.execute(f"SELECT create_assessment({arguments})")

    assert one(alice, "SELECT count(*) FROM assessment_states") == 0


@pytest.mark.parametrize("result", ["[0.8, 0.9]", "1", '"done"', "true"])
def test_a_result_that_is_no_object_is_refused(alice: Connection, result: str) -> None:
    """Readers of results expect members."""
    create(alice)
    alice.execute("SELECT update_assessment_state('a-1', 'processing', 1)")

    with refused(errors.InvalidParameterValue, "result_data must be a JSON object, got "):
        alice.execute("SELECT update_assessment_state('a-1', 'completed', 2, %s)", [result])


def test_the_same_id_with_another_request_names_what_differs_and_not_its_content(alice: Connection) -> None:
    """The refusal is one line with at most five members, each cut."""
    create(alice, serverName="secret-a", options={"deep": "secret"}, same=1)

    with refused(errors.UniqueViolation, "assessment 'a-1' exists with another request, which differs in ") as _:
        create(alice, serverName="secret-b", options={"deep": "other"}, same=1, more=2)
    with pytest.raises(errors.UniqueViolation) as told:
        create(alice, serverName="secret-b", options={"deep": "other"}, same=1, more=2)

    assert str(told.value.diag.message_primary).endswith("differs in more, options, serverName")
    with pytest.raises(errors.UniqueViolation) as told:
        create(alice, "a-1", **{f"{'x' * 90}{n}": str(n) for n in range(9)})
    assert len(str(told.value.diag.message_primary)) < 400
