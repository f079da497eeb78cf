"""Signatures of webhooks, compared with the reference library of Standard Webhooks."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook

from workers.outbound.signatures import BadSignature, new_secret, sign_message, verify
from workers.runtime.refusals import Kind, Refusal

NOW = datetime(2026, 11, 30, 12, 0, 0, 500_000, tzinfo=UTC)
BODY = b'{"type": "job.completed", "data": {}}'


@pytest.fixture
def key() -> str:
    return new_secret()


def test_the_example_of_the_specification_has_its_signature():
    """The test vector of the specification."""
    headers = sign_message(
        ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"],
        message_id="msg_p5jXN8AQM9LWM0D4loKWxJek",
        at=datetime.fromtimestamp(1_614_265_330, UTC),
        body=b'{"test": 2432232314}',
    )

    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert headers["webhook-timestamp"] == "1614265330"


def test_a_receiver_with_the_reference_library_accepts_our_message(key):
    """Headers, secret and body have the format of the reference library."""
    headers = sign_message([key], message_id="msg_1", at=datetime.now(UTC), body=BODY)

    assert Webhook(key).verify(BODY.decode(), headers) == json.loads(BODY)


def test_we_accept_a_message_of_the_reference_library(key):
    """A message signed by the reference library is valid for us."""
    signature = Webhook(key).sign("msg_1", NOW, BODY.decode())
    stamp = str(int(NOW.timestamp()))

    headers = {"webhook-id": "msg_1", "webhook-timestamp": stamp, "webhook-signature": signature}
    assert verify([key], headers, BODY, now=NOW) == "msg_1"


@given(st.binary(max_size=200), st.from_regex(r"[A-Za-z0-9_-]{1,30}", fullmatch=True))
def test_what_we_sign_we_accept(body, message_id):
    """This holds for any body and any id."""
    key = new_secret()
    headers = sign_message([key], message_id=message_id, at=NOW, body=body)

    assert verify([key], headers, body, now=NOW) == message_id


def test_a_message_is_signed_by_the_old_and_the_new_secret_while_one_is_replaced(key):
    """A receiver with only one of the secrets accepts the message."""
    new = new_secret()
    headers = sign_message([new, key], message_id="m", at=NOW, body=BODY)

    assert verify([key], headers, BODY, now=NOW) == verify([new], headers, BODY, now=NOW) == "m"


CHANGES = {
    "another body": ({}, b"{}"),
    "another id": ({"webhook-id": "m2"}, BODY),
    "another time": ({"webhook-timestamp": str(int(NOW.timestamp()) + 1)}, BODY),
    "no signature": ({"webhook-signature": ""}, BODY),
    "a signature of another kind": ({"webhook-signature": "v1a,AAAA"}, BODY),
    "a broken signature": ({"webhook-signature": "v1"}, BODY),
    "a signature that is no ASCII": ({"webhook-signature": "v1,ä"}, BODY),
    "a time that is no number": ({"webhook-timestamp": "1e9"}, BODY),
    "a huge time": ({"webhook-timestamp": "9" * 400}, BODY),
    "an id with a dot": ({"webhook-id": "m.1"}, BODY),
}


@pytest.mark.parametrize(("headers", "body"), CHANGES.values(), ids=CHANGES)
def test_a_changed_message_is_refused(key, headers, body):
    """A change of any part is detected."""
    good = sign_message([key], message_id="m", at=NOW, body=BODY)

    with pytest.raises(BadSignature) as caught:
        verify([key], good | headers, body, now=NOW)

    assert caught.value.kind is Kind.FORBIDDEN


def test_a_message_without_headers_is_refused(key):
    """Anybody can send such a message."""
    with pytest.raises(BadSignature):
        verify([key], {}, BODY, now=NOW)


@pytest.mark.parametrize("late", [timedelta(minutes=5, seconds=2), -timedelta(minutes=5, seconds=2)])
def test_an_old_message_is_refused_and_one_of_the_future(key, late):
    """So a recorded message cannot be sent again later."""
    headers = sign_message([key], message_id="m", at=NOW, body=BODY)

    with pytest.raises(BadSignature, match="within 300 s of now"):
        verify([key], headers, BODY, now=NOW + late)


def test_another_secret_is_refused(key):
    """The secret of one endpoint is not valid for another."""
    headers = sign_message([new_secret()], message_id="m", at=NOW, body=BODY)

    with pytest.raises(BadSignature, match="made with the endpoint's secret"):
        verify([key], headers, BODY, now=NOW)


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_c2hvcnQ=", "whsec_%%%", "whsec_" + "A" * 100])
def test_a_secret_that_is_too_short_or_no_base64_is_refused(secret):
    """The message is one line without the secret."""
    with pytest.raises(Refusal, match="24 to 64 bytes") as caught:
        sign_message([secret], message_id="m", at=NOW, body=BODY)

    assert not secret.removeprefix("whsec_") or secret not in str(caught.value)


def test_two_new_secrets_differ():
    """Each has 32 random bytes."""
    assert new_secret() != new_secret()
    assert len(new_secret()) == len("whsec_") + 44
