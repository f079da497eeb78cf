"""Reading one assessment of the event-based system, or the reason why it is refused."""

from datetime import UTC, datetime, timedelta

import pytest

from workers.assessment.store.legacy import UnusableEntry, read_legacy

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
    """The request has five members, named as in events. The end time is that of the last update."""
    taken = read_legacy(ROW, now=NOW)

    assert taken.request_data == {
        "serverName": "srv",
        "assessmentType": "llm_rubric",
        "options": {"depth": 1},
        "timestamp": "2026-01-01T00:00:00+00:00",
        "source": "event",
    }
    assert (taken.state, taken.completed_at) == ("completed", ROW["updated_at"])


def test_events_and_files_may_write_names_and_times_their_own_way():
    """Camel case, JSON in text, times without a zone and milliseconds are read."""
    taken = read_legacy(
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
def test_an_assessment_that_had_not_ended_is_pending_again(status):
    """Its worker no longer exists, so it is imported as pending."""
    taken = read_legacy({**ROW, "status": status}, now=NOW)

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
def test_an_unusable_entry_is_refused_with_field_rule_and_value(change, reason):
    """The message helps to correct the source."""
    with pytest.raises(UnusableEntry, match=f"^{reason}"):
        read_legacy({**ROW, **change}, now=NOW)
