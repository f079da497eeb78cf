"""Ratings by people, and their comparison with models, on a real database."""

import uuid
from typing import Any

import pytest
from sqlalchemy import event, insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from models.operations import LLM_USER, DataRecord, LikertScore, Project
from workers.analytics.agreement import compare, pairs_of
from workers.analytics.ratings import RatingError, UnratableRecord, list_ratings, rate


@pytest.fixture
async def project(session: AsyncSession) -> uuid.UUID:
    """A project."""
    made = insert(Project).values(name=f"p {uuid.uuid4()}").returning(Project.id)
    return (await session.execute(made)).scalar_one()


async def record(session: AsyncSession, project: uuid.UUID, *, type_: str = "TASK") -> uuid.UUID:
    content = f"record {uuid.uuid4()}\nand more"
    made = insert(DataRecord).values(project_id=project, type=type_, source="test", content=content)
    return (await session.execute(made.returning(DataRecord.id))).scalar_one()


async def by_model(session: AsyncSession, record_id: uuid.UUID, model: str, realism: int, quality: int) -> None:
    given = {"realism_score": realism, "quality_score": quality, "llm_model": model}
    await session.execute(insert(LikertScore).values(record_id=record_id, user_id=LLM_USER, **given))


async def test_second_rating_of_a_person_replaces_the_first(session: AsyncSession, project: uuid.UUID) -> None:
    """One per person and record. Ratings by other people and models stay."""
    rated = await record(session, project)
    await by_model(session, rated, "judge-1", 1, 1)
    await rate(session, rated, "ana", realism=2, quality=3)
    await rate(session, rated, "joost", realism=4, quality=4)

    await rate(session, rated, "ana", realism=7, quality=6)

    rows = await session.execute(select(LikertScore.user_id, LikertScore.realism_score, LikertScore.quality_score))
    assert {tuple(row) for row in rows} == {(LLM_USER, 1, 1), ("ana", 7, 6), ("joost", 4, 4)}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"realism": 0}, "realism must be greater than or equal to 1, got 0"),
        ({"quality": 8}, "quality must be less than or equal to 7, got 8"),
        ({"quality": 4.5}, "quality must be a valid integer, got 4.5"),
        ({"user_id": "  "}, "user must have 1 to 255 characters, without"),
        ({"user_id": LLM_USER}, "user must be a person's id, not the id that stands for models"),
        ({"user_id": "a\x00b"}, "user must have 1 to 255 characters, without control"),
    ],
)
async def test_rating_off_the_scale_is_refused_in_one_line(
    session: AsyncSession, project: uuid.UUID, changes: dict[str, Any], complaint: str
) -> None:
    """It names the field, the rule and the value."""
    given = {"user_id": "ana", "realism": 4, "quality": 4, **changes}
    rated = await record(session, project)

    with pytest.raises(RatingError, match=complaint) as refusal:
        await rate(session, rated, given.pop("user_id"), **given)

    assert "\n" not in str(refusal.value)


async def test_record_that_is_not_there_cannot_be_rated(session: AsyncSession, project: uuid.UUID) -> None:
    """The session can be used afterwards."""
    with pytest.raises(UnratableRecord, match=r"record .* does not exist"):
        await rate(session, uuid.uuid4(), "ana", realism=4, quality=4)

    await rate(session, await record(session, project), "ana", realism=4, quality=4)


async def test_each_model_is_compared_with_the_mean_of_people(session: AsyncSession, project: uuid.UUID) -> None:
    """Only records that both rated count. Other projects do not, and rules do not count in the averages."""
    first, second, third, feedback = [
        await record(session, project, type_=type_) for type_ in ("TASK", "TASK", "TASK", "FEEDBACK")
    ]
    other = Project(name=f"p {uuid.uuid4()}")
    session.add(other)
    await session.flush()
    foreign = await record(session, other.id)
    for rated, people, model in ((first, (2, 3), 3), (second, (6,), 6), (feedback, (5,), 4), (foreign, (1,), 7)):
        for number, points in enumerate(people):
            await rate(session, rated, f"person-{number}", realism=points, quality=points)
        await by_model(session, rated, "judge-1", model, model)
        await by_model(session, rated, "offline-rubric-v1", 1, 1)
    await by_model(session, third, "judge-1", 1, 1)
    await by_model(session, third, "judge-2", 1, 1)

    found = compare(await pairs_of(session, project))
    tasks = compare(await pairs_of(session, project, type_="TASK"))

    assert found.rated_by_people == 3
    judge, lonely, rules = found.models
    assert (judge.model, judge.realism.n, judge.realism.within_one) == ("judge-1", 3, 1.0)
    assert judge.realism.exact == pytest.approx(2 / 3, abs=1e-4)
    assert judge.quality.mean_difference == pytest.approx((0.5 + 0 - 1) / 3, abs=1e-4)
    assert (lonely.realism.n, lonely.realism.kappa) == (0, None)
    assert lonely.realism.kappa_undefined == "needs at least 2 records rated by both, got 0"
    assert rules.rule_based
    assert (found.realism.models, found.realism.exact) == (1, judge.realism.exact)
    assert tasks.models[0].realism.n == 2


async def test_ratings_without_a_persons_rating_are_not_fetched(session: AsyncSession, project: uuid.UUID) -> None:
    """Models rate thousands of records, people a few: only the compared ratings are read."""
    rated = [await record(session, project) for _ in range(20)]
    for each in rated:
        await by_model(session, each, "judge-1", 4, 4)
        await by_model(session, each, "judge-2", 4, 4)
    await rate(session, rated[0], "ana", realism=4, quality=4)
    fetched: list[int] = []

    def count(_connection: Any, cursor: Any, *_: Any) -> None:
        fetched.append(cursor.rowcount)

    connection = (await session.connection()).sync_connection
    assert connection
    event.listen(connection, "after_cursor_execute", count)
    pairs = await pairs_of(session, project)

    assert [len(pairs.realism[model]) for model in ("judge-1", "judge-2")] == [1, 1]
    assert sum(fetched) == 1 + 2 + 2  # the count of rated records, the models, the pairs


async def test_ratings_are_listed_newest_first_with_who_gave_them(session: AsyncSession, project: uuid.UUID) -> None:
    """People by id, models by name, and rules marked as rules."""
    rated = await record(session, project)
    await rate(session, rated, "ana", realism=5, quality=6)
    await by_model(session, rated, "judge-1", 4, 4)
    await by_model(session, rated, "offline-rubric-v1", 2, 2)

    listed = await list_ratings(session, project, limit=2)

    assert [(one.model, one.rule_based) for one in listed] == [("offline-rubric-v1", True), ("judge-1", False)]
    assert "\n" not in listed[0].excerpt
