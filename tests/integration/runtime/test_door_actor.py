"""The user of a Celery message: the same rules as in SQL, and in strict mode only with a signature."""

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from workers.runtime.actor_signature import new_key, pads, sign_actor
from workers.runtime.database import Database
from workers.runtime.enqueue import Enqueued, EnqueueError
from workers.runtime.operate.requests import put_request, read_request

ANNA, MALLORY = uuid.uuid4(), uuid.uuid4()
KEY = new_key()


@pytest.fixture
def strict(psql):
    """Turn on strict mode with one key."""
    inner, outer = pads(KEY)
    psql.execute("INSERT INTO runtime.actor_keys (inner_pad, outer_pad) VALUES (%s, %s)", [inner, outer])
    psql.execute("INSERT INTO runtime.security (id, strict, changed_by) VALUES (1, true, 'test')")


@pytest.fixture
def profile(psql) -> UUID:
    """Make a profile of Anna."""
    row = psql.execute(
        "INSERT INTO scoring.profiles (name, owner_id) VALUES ('Anna''s', %s) RETURNING id", [ANNA]
    ).fetchone()
    found: UUID = row["id"]
    return found


def signed(user: UUID, *, span: timedelta = timedelta(minutes=5), key: bytes = KEY) -> dict[str, str]:
    return {"user_id": str(user), "user_signature": sign_actor(key, user, expires=datetime.now(UTC) + span)}


async def send(database: Database, profile: UUID, **keywords: Any) -> Enqueued:
    payload = {"profile_id": str(profile), "prompt": "Fit?"}
    request = read_request(["scoring.score", payload], keywords, message_id=str(uuid.uuid4()))
    async with database.session() as session:
        return await session.run_sync(put_request, request)


async def test_a_signed_message_is_its_users(strict, database, profile, psql):
    """The job belongs to the user, like a job enqueued in SQL."""
    done = await send(database, profile, **signed(ANNA))

    row = psql.execute("SELECT owner_id FROM scoring.scoring_jobs WHERE id = %s", [done.id]).fetchone()
    assert row == {"owner_id": ANNA}


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize(
    ("keywords", "said"),
    [
        ({}, "user_id is required in strict mode, got nothing"),
        ({"user_id": str(ANNA)}, "user_signature is required in strict mode, got nothing"),
        ({"user_id": str(ANNA), "user_signature": ""}, "user_signature is required in strict mode, got nothing"),
        ({"user_signature": "1.aa"}, "user_id is required in strict mode, got nothing"),
        ({"user_id": str(ANNA), "user_signature": "x"}, "user_signature must be EXPIRES.HEX"),
        ({**signed(MALLORY), "user_id": str(ANNA)}, "user_signature is not one of user"),
        (signed(ANNA, span=timedelta(seconds=-5)), "user_signature of user .* expired at"),
        (signed(ANNA, key=new_key()), "user_signature is not one of user"),
    ],
)
async def test_strict_mode_refuses_a_message_that_proves_nothing(database, profile, psql, keywords, said):
    """Access to Redis alone does not let anybody act for a user."""
    with pytest.raises(EnqueueError, match=f"^{said}"):
        await send(database, profile, **keywords)

    assert psql.execute("SELECT count(*) AS n FROM scoring.scoring_jobs").fetchone() == {"n": 0}


@pytest.mark.parametrize("user", [MALLORY, uuid.UUID(int=0)])
async def test_a_user_gets_no_job_on_what_is_anothers(strict, database, profile, psql, user):
    """The worker's login sees every row, but a message may not use that."""
    with pytest.raises(EnqueueError, match=r"^user_id must own what the job is about, got '"):
        await send(database, profile, **signed(user))

    assert psql.execute("SELECT count(*) AS n FROM scoring.scoring_jobs").fetchone() == {"n": 0}


async def test_without_strict_mode_a_message_is_believed(database, profile, psql):
    """A message with or without a user is accepted, like a service's session."""
    first, second = await send(database, profile), await send(database, profile, user_id=str(ANNA))

    rows = psql.execute("SELECT owner_id FROM scoring.scoring_jobs WHERE id IN (%s, %s)", [first.id, second.id])
    assert [row["owner_id"] for row in rows] == [ANNA, ANNA]
    with pytest.raises(EnqueueError, match=r"^user_id must own what the job is about"):
        await send(database, profile, user_id=str(MALLORY))


@pytest.mark.parametrize(
    ("keywords", "said"),
    [
        ({"user_id": "anna"}, "user_id must be a UUID, got 'anna'"),
        ({"user_id": 7}, "user_id must be a UUID, got 7"),
        ({"user_signature": 7}, "user_signature must be a text, got one of type int"),
    ],
)
def test_what_names_no_user_is_one_line(keywords, said):
    """The line never quotes a signature."""
    with pytest.raises(EnqueueError, match=f"^{said}$"):
        read_request(["scoring.score", {}], keywords, message_id="1")


def test_a_request_shows_no_signature():
    """For example in a log."""
    request = read_request(["s", {}], {"user_id": str(ANNA), "user_signature": "1.secret"}, message_id="1")

    assert "secret" not in repr(request)
