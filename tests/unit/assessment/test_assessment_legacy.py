"""How one assessment of the event-based system is read, or why it is not."""

from datetime import UTC, datetime, timedelta

import pytest

from workers.assessment.store.legacy import Unusable, read

NOW = datetime(2026, 1, 31, tzinfo=UTC)
ROW = {
    "assessment_id": "a-1",
    "server_name": "srv",
    "assessment_type": "llm_rubric",
    "options": {"depth": 1},
    "timestamp": datetime(2026, 1, 1, tzinfo=UTC),
    "source": "event",
    "status": "completed",
    "created_at": datetime(2026, 1, 1, 10, tzinfo=UTC),
    "updated_at": datetime(2026, 1, 1, 11, tzinfo=UTC),
}


def test_a_row_becomes_the_request_that_the_seeds_migration_builds():
    """Five members, named as in events; it ended when it was last updated."""
    taken = read(ROW, now=NOW)

    assert taken.request_data == {
        "serverName": "srv",
        "assessmentType": "llm_rubric",
        "options": {"depth": 1},
        "timestamp": "2026-01-01T00:00:00+00:00",
        "source": "event",
    }
    assert (taken.state, taken.completed_at) == ("completed", ROW["updated_at"])


def test_events_and_files_may_write_names_and_times_their_own_way():
    """Camel case, JSON inside text, times without a zone, milliseconds."""
    taken = read(
        {
            "assessmentId": "a-1",
            "serverName": "srv",
            "options": '{"depth": 1}',
            "status": "ERROR",
            "createdAt": 1_767_225_600_000,
            "completedAt": "2026-01-01 00:00:05",
            "error": "boom",
            "result": "",
        },
        now=NOW,
    )

    assert (taken.state, taken.error_message, taken.result_data) == ("failed", "boom", None)
    assert taken.created_at == datetime(2026, 1, 1, tzinfo=UTC)
    assert taken.completed_at == datetime(2026, 1, 1, 0, 0, 5, tzinfo=UTC)
    assert taken.request_data["options"] == {"depth": 1}


@pytest.mark.parametrize("status", ["pending", "processing", "queued"])
def test_what_had_not_ended_is_to_be_done_again(status):
    """Whoever was processing it went with the event system."""
    taken = read({**ROW, "status": status}, now=NOW)

    assert (taken.state, taken.completed_at) == ("pending", None)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"assessment_id": " "}, "assessment_id is required, got nothing"),
        ({"assessment_id": "x" * 256}, "assessment_id must have at most 255 characters, got 256"),
        ({"status": "lost"}, "status must be one of .*, got 'lost'"),
        ({"status": None}, "status must be one of .*, got nothing"),
        ({"created_at": None, "timestamp": None}, "created_at is required, got nothing"),
        ({"created_at": "yesterday"}, "created_at must be a time in ISO 8601 or milliseconds.*, got 'yesterday'"),
        ({"created_at": NOW + timedelta(days=1)}, "created_at must not lie in the future"),
        ({"completed_at": NOW + timedelta(days=1)}, "completed_at must not lie in the future"),
        ({"completed_at": datetime(2025, 1, 1, tzinfo=UTC)}, "completed_at must not lie before created_at"),
        ({"options": "{"}, "options must be JSON, got '{'"),
    ],
)
def test_what_cannot_be_taken_is_told_by_field_rule_and_value(change, reason):
    """A person mends the source by this line."""
    with pytest.raises(Unusable, match=f"^{reason}"):
        read({**ROW, **change}, now=NOW)
