"""``gristmill callbacks``: endpoints, their secrets, and deliveries with their attempts."""

import json
import os
import uuid

import pytest

from tests.support.command_line import as_json
from workers.operations.keyring import Keyring, new_key

URL = "https://service.example/hook?key=hidden"


@pytest.fixture
def keyring(monkeypatch) -> Keyring:
    """The key that the commands find in their environment."""
    key = new_key()
    monkeypatch.setenv("GRISTMILL_SECRET_KEYS", key)
    return Keyring([key])


@pytest.fixture
def endpoint(gristmill, keyring, psql) -> str:
    """The id of an endpoint for the plain stage."""
    code, printed, said = gristmill("callbacks", "endpoints", "add", URL, "--stage", "proving.plain")
    assert code == 0, said
    row = psql.execute("SELECT id, secret FROM notifications.endpoints").fetchone()
    assert keyring.decrypt(row["secret"]) == printed.strip()
    assert "not shown again" in said
    return str(row["id"])


def test_an_endpoint_is_listed_changed_rotated_and_removed(gristmill, psql, keyring, endpoint):
    """A query of its URL is not shown: it may be a key."""
    code, printed, _ = gristmill("callbacks", "endpoints")
    assert code == 0
    assert "https://service.example/hook" in printed
    assert "hidden" not in printed
    changed = as_json(gristmill, "callbacks", "endpoints", "change", endpoint, "--all-stages", "--disable")
    assert (changed["stages"], changed["version"], changed["disabled_at"] is not None) == (None, 2, True)
    assert "is disabled since" in gristmill("callbacks", "endpoints")[2]
    code, printed, said = gristmill("callbacks", "endpoints", "rotate", endpoint, "--overlap", "2h")
    assert printed.startswith("whsec_")
    assert "signs too until" in said
    assert gristmill("callbacks", "endpoints", "remove", endpoint)[0] == 0
    assert as_json(gristmill, "callbacks", "endpoints") == []
    [*_, last] = psql.execute("SELECT action, changed_by FROM notifications.endpoint_changes ORDER BY id").fetchall()
    assert last["action"] == "deleted"
    assert last["changed_by"].startswith("cli:")


def test_a_test_message_is_shown_and_sent_again(gristmill, psql, endpoint):
    """With its attempts; one under way is not sent again."""
    delivery = gristmill("callbacks", "endpoints", "test", endpoint)[1].strip()
    code, _, said = gristmill("callbacks", "resend", delivery)
    assert (code, "only an ended one can be sent again" in said) == (1, True)
    attempt = {"at": "2026-11-30T12:00:00+00:00", "milliseconds": 12, "status": 500, "answer": "no"}
    psql.execute("UPDATE notifications.deliveries SET attempts = %s", [json.dumps([attempt])])
    psql.execute("UPDATE notifications.deliveries SET status = 'cancelled', version = 2, completed_at = now()")

    code, printed, _ = gristmill("callbacks", "list", "--status", "cancelled")
    assert (code, delivery in printed, "500" in printed, "hidden" in printed) == (0, True, True, False)
    assert "msg_" in gristmill("callbacks", "show", delivery)[1]
    assert gristmill("callbacks", "resend", delivery, "--reason", "mended")[0] == 0
    shown = as_json(gristmill, "callbacks", "show", delivery)
    assert (shown["status"], shown["version"], shown["attempts"][0]["status"]) == ("pending", 3, 500)
    listed = as_json(gristmill, "callbacks", "list", "--endpoint", endpoint)
    assert [one["id"] for one in listed["items"]] == [delivery]


def test_the_secret_of_one_off_addresses_is_per_owner(gristmill, psql, keyring):
    """Of the operators, or of one user."""
    owner = str(uuid.uuid4())
    printed = [gristmill("callbacks", "secret", *more)[1].strip() for more in ((), ("--owner", owner))]

    rows = psql.execute("SELECT owner_id, secret FROM notifications.endpoints ORDER BY owner_id NULLS FIRST").fetchall()
    assert [row["owner_id"] and str(row["owner_id"]) for row in rows] == [None, owner]
    assert [keyring.decrypt(row["secret"]) for row in rows] == printed


def test_rotating_the_keys_covers_endpoints(gristmill, psql, keyring, endpoint, monkeypatch):
    """After it the old key can go."""
    new, old = new_key(), psql.execute("SELECT secret FROM notifications.endpoints").fetchone()["secret"]
    secret = keyring.decrypt(old)
    monkeypatch.setenv("GRISTMILL_SECRET_KEYS", f"{new},{os.environ['GRISTMILL_SECRET_KEYS']}")

    assert "1 secret" in gristmill("settings", "rotate")[1]

    row = psql.execute("SELECT secret, version FROM notifications.endpoints").fetchone()
    assert Keyring([new]).decrypt(row["secret"]) == secret
    assert row["version"] == 1


REFUSED = {
    "url must not be an address that is loopback": ("endpoints", "add", "http://127.0.0.1/"),
    "stages must be registered stages, got 'no.stage'": ("endpoints", "add", URL, "--stage", "no.stage"),
    "--every-owner must not be given with --owner": (
        "endpoints", "add", URL, "--every-owner", "--owner", str(uuid.UUID(int=9)),
    ),
    "delivery must be the id of a delivery, got ": ("show", str(uuid.UUID(int=9))),
    "endpoint must be the id of an endpoint, got ": ("endpoints", "test", str(uuid.UUID(int=9))),
    "overlap must be from 0 to 30 days": ("secret", "--overlap", "31d"),
    "status must be one of pending, ": ("list", "--status", "lost"),
    "cursor must be `next` of a page": ("list", "--after", "x"),
}  # fmt: skip


@pytest.mark.parametrize(("line", "arguments"), REFUSED.items())
def test_what_is_wrong_is_refused_in_one_line(gristmill, keyring, line, arguments):
    """The field, the rule and the value."""
    code, _, said = gristmill("callbacks", *arguments)

    assert code in {1, 2}
    assert said.startswith(f"gristmill: {line}")
    assert "\n" not in said


def test_without_a_key_the_setting_is_named(gristmill, monkeypatch):
    """Nothing is stored unencrypted."""
    monkeypatch.delenv("GRISTMILL_SECRET_KEYS", raising=False)

    code, _, said = gristmill("callbacks", "secret")

    assert code != 0
    assert "GRISTMILL_SECRET_KEYS must be set" in said


def test_doctor_tells_of_what_was_disabled_and_of_what_stays(gristmill, psql, endpoint):
    """An operator need not look for it."""

    def found() -> str:
        checks = json.loads(gristmill("doctor", "--json")[1])["checks"]
        return str(next(one["found"] for one in checks if one["name"] == "callbacks"))

    assert "no endpoint was disabled by failures" in found()
    psql.execute("UPDATE notifications.endpoints SET consecutive_failures = 1, first_failure_at = now()")
    psql.execute("UPDATE notifications.endpoints SET disabled_at = now(), disabled_reason = 'failed'")
    assert "1 endpoints are disabled after failures" in found()
    psql.execute(
        """INSERT INTO runtime.notices (job_id, stage, table_name, status, version, ended_at, problem)
           VALUES (uuidv7(), 's', 't', 'completed', 3, now(), 'no')"""
    )
    assert "of 1 ended jobs no callback could be made" in found()
