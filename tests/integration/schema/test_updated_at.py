"""``updated_at`` is the time of the last change, also of a change in psql."""

import pytest

PAST = "2020-01-01 00:00:00+00"
CHANGES = {
    "scoring.profiles": (
        f"INSERT INTO scoring.profiles (name, updated_at) VALUES ('Ada', '{PAST}')",
        "UPDATE scoring.profiles SET attributes = '{\"a\": 1}'",
        "updated_at",
    ),
    "runtime.schedules": (
        f"INSERT INTO runtime.schedules (name, action, cron, updated_at) VALUES ('s', 'a', '* * * * *', '{PAST}')",
        "UPDATE runtime.schedules SET enabled = false",
        "updated_at",
    ),
    "operations.projects": (
        f"""INSERT INTO operations.projects (name, "updatedAt") VALUES ('p', '{PAST}')""",
        "UPDATE operations.projects SET name = 'q'",
        '"updatedAt"',
    ),
    "operations.system_settings": (
        f"""INSERT INTO operations.system_settings (key, value, "updatedAt")
            VALUES ('ai_provider', 'offline', '{PAST}')""",
        "UPDATE operations.system_settings SET value = 'lmstudio'",
        '"updatedAt"',
    ),
}


@pytest.mark.parametrize("table", CHANGES)
def test_a_change_by_hand_is_dated(psql, table):
    """The database sets the time."""
    insert, change, column = CHANGES[table]
    psql.execute(insert)

    psql.execute(change)

    assert psql.execute(f"SELECT {column} > '2021-01-01' AS now FROM {table}".encode()).fetchone() == {"now": True}


def test_beat_changes_nothing_that_a_person_wrote(psql):
    """To fire a schedule does not count as an edit."""
    psql.execute(CHANGES["runtime.schedules"][0])

    psql.execute("UPDATE runtime.schedules SET last_scheduled_for = now()")

    row = psql.execute(f"SELECT updated_at = '{PAST}' AS kept FROM runtime.schedules").fetchone()
    assert row == {"kept": True}
