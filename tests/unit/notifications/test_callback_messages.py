"""The message of a delivery: thin, the same at every attempt, and read by the library of the specification."""

import json
from datetime import UTC, datetime
from uuid import UUID

from standardwebhooks.webhooks import Webhook

from models.notifications import Delivery
from workers.notifications.message import compose_body, message_id
from workers.outbound.signatures import new_secret, sign_message

ID = UUID("0198c0de-0000-7000-8000-000000000001")
JOB = UUID("0198c0de-0000-7000-8000-000000000002")


def delivery(**more) -> Delivery:
    values = {
        "id": ID,
        "event": "job.completed",
        "job_id": JOB,
        "job_stage": "scoring.score",
        "job_status": "completed",
        "job_version": 3,
        "ended_at": datetime(2026, 11, 30, 12, 0, 1, 5, tzinfo=UTC),
    }
    return Delivery(**values | more)


def test_a_message_says_what_happened_to_which_job():
    """Ids and links, nothing of what the job found."""
    assert json.loads(compose_body(delivery())) == {
        "type": "job.completed",
        "timestamp": "2026-11-30T12:00:01.000005Z",
        "data": {
            "job_id": str(JOB),
            "stage": "scoring.score",
            "status": "completed",
            "version": 3,
            "links": {"job": f"/v1/jobs/{JOB}", "result": f"/v1/jobs/{JOB}/result"},
        },
    }


def test_a_test_message_names_its_endpoint():
    """It has no job."""
    ping = delivery(event="endpoint.ping", job_id=None, endpoint_id=JOB)

    assert json.loads(compose_body(ping))["data"] == {"endpoint_id": str(JOB)}


def test_each_of_two_secrets_verifies_a_message():
    """As while a secret is being replaced."""
    old, new = new_secret(), new_secret()
    body = compose_body(delivery())

    headers = sign_message([new, old], message_id=message_id(ID), at=datetime.now(UTC), body=body)

    for secret in (old, new):
        assert Webhook(secret).verify(body, headers)["type"] == "job.completed"
    assert headers["webhook-id"] == f"msg_{ID.hex}"
