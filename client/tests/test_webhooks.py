"""Callbacks: what is believed and what is not, beside the reference library."""

import base64
import json
import secrets
from datetime import UTC, datetime, timedelta

import pytest
from gristmill_client import BadSignature, NotPossible
from gristmill_client.webhooks import signature, verify
from standardwebhooks.webhooks import Webhook

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
BODY = json.dumps(
    {
        "type": "job.completed",
        "timestamp": "2026-11-30T12:00:00Z",
        "data": {
            "job_id": "01980000-0000-7000-8000-000000000000",
            "stage": "scoring.score",
            "status": "completed",
            "version": 3,
            "links": {"job": "/v1/jobs/x"},
        },
    }
).encode()


def new_secret():
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


SECRET = new_secret()


def headers(*secret, at=NOW, body=BODY, **more):
    signed = " ".join(Webhook(one).sign("msg_1", at, body.decode()) for one in secret or [SECRET])
    return {
        "Webhook-Id": "msg_1",
        "Webhook-Timestamp": str(int(at.timestamp())),
        "Webhook-Signature": signed,
        **more,
    }


def test_what_the_reference_library_signs_is_believed():
    message = verify(SECRET, headers(), BODY, now=NOW)

    assert (message.id, message.type, message.timestamp) == ("msg_1", "job.completed", NOW)
    assert (message.job.stage, message.job.version, message.job.status) == ("scoring.score", 3, "completed")


def test_the_reference_library_believes_what_we_sign():
    now = datetime.now(UTC)
    stamp = str(int(now.timestamp()))
    signed = {"webhook-id": "m", "webhook-timestamp": stamp}
    signed["webhook-signature"] = "v1," + signature(SECRET, "m", stamp, BODY)

    assert Webhook(SECRET).verify(BODY, signed) == json.loads(BODY)


def test_while_a_secret_is_replaced_both_are_good():
    """On either side, in any order."""
    old, new = new_secret(), new_secret()

    for given, known in (([new, old], old), ([new, old], new), ([old], [new, old]), ([new], (old, new))):
        assert verify(known, headers(*given), BODY, now=NOW).id == "msg_1"


@pytest.mark.parametrize("seconds", [-301, 301])
def test_an_old_or_a_future_message_is_not_believed(seconds):
    late = NOW + timedelta(seconds=seconds)
    with pytest.raises(BadSignature, match="within 300 s"):
        verify(SECRET, headers(), BODY, now=late)
    assert verify(SECRET, headers(), BODY, now=late, tolerance=timedelta(seconds=302)).id == "msg_1"


GOOD = headers()["Webhook-Signature"]


@pytest.mark.parametrize(
    "changed",
    [
        {"Webhook-Signature": ""},
        {"Webhook-Signature": GOOD.replace("v1,", "v1a,")},
        {"Webhook-Signature": GOOD.removeprefix("v1,")},
        {"Webhook-Signature": "v1,ü v1, ,, v1"},
        {"Webhook-Signature": f"v1,{base64.b64encode(bytes(32)).decode()}"},
        {"Webhook-Id": "msg_2"},
        {"Webhook-Id": "msg.1"},
        {"Webhook-Id": ""},
        {"Webhook-Timestamp": str(int(NOW.timestamp()) + 1)},
        {"Webhook-Timestamp": "NaN"},
        {"Webhook-Timestamp": "9" * 400},
        {"Webhook-Timestamp": ""},
    ],
)
def test_what_was_changed_is_not_believed(changed):
    with pytest.raises(BadSignature) as caught:
        verify(SECRET, headers(**changed), BODY, now=NOW)
    assert "\n" not in str(caught.value)


def test_another_body_or_secret_is_not_believed():
    for secret, body in ((new_secret(), BODY), (SECRET, BODY + b" "), ([], BODY), (SECRET, b"")):
        with pytest.raises(BadSignature):
            verify(secret, headers(), body, now=NOW)


def test_a_signed_body_that_is_no_message_is_not_believed():
    for body in (b"[]", b"{}", b"\xff", b'"x"'):
        signed = headers(body=body) if body.isascii() else headers()
        with pytest.raises(BadSignature):
            verify(SECRET, signed, body, now=NOW)


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_abc", "whsec_!", "whsec_" + "QUJD" * 4])
def test_a_secret_that_is_none_is_told_without_showing_it(secret):
    with pytest.raises(NotPossible) as caught:
        verify(secret, headers(), BODY, now=NOW)
    assert not secret or secret not in str(caught.value).removeprefix("a secret of webhooks must be whsec_")


def test_a_ping_has_no_job():
    body = b'{"type": "endpoint.ping", "timestamp": "2026-11-30T12:00:00Z", "data": {"endpoint_id": "x"}}'

    assert verify(SECRET, headers(body=body), body, now=NOW).job is None
