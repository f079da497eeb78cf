"""Profiles are added once, scored in rounds, and deleted with their jobs."""

from uuid import UUID

from sqlalchemy import text

from workers.runtime.actor import Actor
from workers.runtime.store.verify import verify_history
from workers.scoring.profiles import NewProfile, put_profiles, remove_profiles
from workers.scoring.rounds import enqueue_round, round_outcome, round_progress

ADA = UUID(int=0xADA)
PROFILES = [NewProfile("a", {"x": 1}), NewProfile("b", {}), NewProfile("a", {"x": 1}), NewProfile("a", {"x": 2})]


async def test_a_profile_with_the_same_content_is_not_written_twice(session):
    """This holds per owner: another owner gets a separate profile."""
    made: list[UUID] = []
    first = await put_profiles(session, PROFILES, made=made.extend)
    again = await put_profiles(session, PROFILES[::-1], made=made.extend)
    hers = await put_profiles(session, PROFILES[:1], actor=Actor(user_id=ADA))
    hers_again = await put_profiles(session, PROFILES[:1], actor=Actor(user_id=ADA))

    assert first[0] == first[2]
    assert len(set(first)) == len(made) == 3
    assert again == first[::-1]
    assert hers == hers_again
    assert hers[0] not in first


async def test_a_round_is_followed_and_deleted(session):
    """Jobs are counted although deleting the profiles deletes them."""
    ids = await put_profiles(session, PROFILES[:2])
    jobs = await enqueue_round(session, ids, "judge", actor=Actor(change_reason="a round"))
    raw = (await (await session.connection()).get_raw_connection()).driver_connection
    assert raw is not None

    progress = await round_progress(raw, jobs)
    names = [one.name for one in await round_outcome(session, jobs)]
    removed = await remove_profiles(session, ids, job_ids=jobs)

    assert (progress.completed, progress.failed, progress.cached, progress.retries) == (0, 0, 0, 0)
    assert sorted(names) == ["a", "b"]
    assert (removed.profiles, removed.jobs) == (2, 2)
    assert await session.scalar(text("SELECT count(*) FROM scoring.scoring_jobs")) == 0
    [stage] = await verify_history(raw, stage="scoring.score")
    assert (stage.cancelled, stage.lost, stage.violations) == (2, 0, 0)
