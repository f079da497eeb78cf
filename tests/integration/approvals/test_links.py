"""A link decides one wait, once, in the name of its recipient. Opening it decides nothing."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from tests.support.approvals import ANN, link, question
from tests.support.kernel import Jobs
from tests.support.proving.models import SECOND_OPINION, PlainJob, WaitingJob
from tests.support.waits import ASK, BORIS, cancelled, decided, expired, overdue, waiting
from workers.approvals.decisions import Approval, Decision, LinkState, decide, decide_by_link, expire, read_approval
from workers.approvals.links import JobWait, issue, new_token, revoke, token_hash
from workers.approvals.pages import build_page
from workers.approvals.question import DecisionChoice
from workers.runtime.actor import Actor
from workers.runtime.refusals import Conflict, NotFound, Refusal

BROWSER = Actor(ip_address="192.0.2.9", user_agent="Firefox")


@pytest.fixture
def by_link(database):
    """Decide by a link, in its own transaction."""

    async def by_link(token: str, into: str = "approved", **more: Any) -> Approval:
        async with database.session() as session:
            return await decide_by_link(session, token, into, **{"actor": BROWSER, **more})

    return by_link


@pytest.fixture
def seen(database):
    """Read a link, in its own transaction."""

    async def seen(token: str) -> Approval:
        async with database.session() as session:
            return await read_approval(session, token)

    return seen


async def tokens(jobs: Jobs) -> list[dict[str, Any]]:
    return await jobs.sql("SELECT * FROM runtime.approval_tokens ORDER BY id")


# ── issue ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_of_a_link_only_the_hash_is_kept(jobs, database):
    """Nobody can decide with the content of the table or of a backup."""
    [ticket] = await waiting(jobs)

    token = await link(database, ticket)

    [row] = await tokens(jobs)
    assert row["token_hash"] == token_hash(token)
    assert token not in repr(row)
    assert (row["recipient"], row["purpose"], row["decides"]) == (ANN, "ask", ["approved", "rejected"])


async def test_a_new_link_for_the_same_purpose_replaces_the_old_one(jobs, database, by_link):
    """A mail that is sent again has a new link; a reminder has its own link."""
    [ticket] = await waiting(jobs)
    old, reminder = await link(database, ticket), await link(database, ticket, purpose="reminder")

    new = await link(database, ticket)

    with pytest.raises(NotFound, match="newer mail"):
        await by_link(old)
    assert len(await tokens(jobs)) == 2
    assert (await by_link(reminder)).state is LinkState.DECIDED
    with pytest.raises(Conflict, match="decided already"):
        await by_link(new)


async def test_links_of_two_who_ask_at_once_are_one_in_the_end(jobs, database, seen):
    """Only the later link is valid."""
    [ticket] = await waiting(jobs)

    made = await asyncio.gather(*(link(database, ticket) for _ in range(5)))

    assert len(await tokens(jobs)) == 1
    found = await asyncio.gather(*(seen(token) for token in made), return_exceptions=True)
    assert sorted(type(one) is Approval for one in found) == [False] * 4 + [True]


async def test_no_new_link_is_made_for_who_has_decided(jobs, database, by_link):
    """The decision by the old link stays recorded."""
    [ticket] = await waiting(jobs)
    await by_link(await link(database, ticket))

    with pytest.raises(Conflict, match=r"has already decided job"):
        await link(database, ticket)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"choices": (DecisionChoice(into="completed_by_magic", label="x"),)}, "choices must be among approved, "),
        ({"purpose": "Ask me!"}, "purpose must be small letters"),
        ({"to": " "}, "recipient must be one line"),
        ({"to": "ann@example.org\r\nBcc: eve"}, "recipient must be one line"),
        ({"to": "a" * 256}, "recipient must be one line"),
        ({"choices": (DecisionChoice(into=SECOND_OPINION, label="Ask another"),)}, "choices must be among approved, "),
    ],
)
async def test_a_link_that_could_decide_nothing_is_not_made(jobs, database, changes, said):
    """Unknown states, invalid purposes and invalid recipients are refused."""
    [ticket] = await waiting(jobs)

    with pytest.raises(Refusal, match=said):
        await link(database, ticket, **changes)


async def test_a_table_without_waits_has_no_links(jobs, database):
    """A mistake of a domain is refused at once."""
    [job] = await jobs.ready()

    async with database.session() as session:
        with pytest.raises(Refusal, match="choices must be among"):
            await issue(session, JobWait(PlainJob, job, 1), question(), recipient=ANN, purpose="ask")


# ── look ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_looking_changes_nothing_however_often(jobs, database, seen):
    """Mail scanners open every link, some of them in a browser."""
    [ticket] = await waiting(jobs)
    token = await link(database, ticket)
    before = await jobs.sql("SELECT xmin::text, * FROM runtime.approval_tokens")

    found = await asyncio.gather(*(seen(token) for _ in range(20)))

    assert {one.state for one in found} == {LinkState.OPEN}
    assert await jobs.sql("SELECT xmin::text, * FROM runtime.approval_tokens") == before
    assert (await jobs.row(ticket[0], ASK))["version"] == ticket[1]


async def test_a_link_shows_what_was_asked(jobs, database, seen):
    """The question is the same as in the mail."""
    [ticket] = await waiting(jobs)
    asked = question()

    found = await seen(await link(database, ticket, until=asked.until))

    assert found.question == asked
    assert (found.job_id, found.version, found.recipient) == (*ticket, ANN)
    assert found.expires_at == asked.until


@pytest.mark.parametrize(
    "token",
    ["", "x", new_token(), "a" * 43, "a" * 42 + "\x00", "ä" * 43, "a" * 10_000],
    ids=["empty", "short", "new", "43", "NUL", "umlauts", "long"],
)
async def test_an_unknown_link_is_not_found(jobs, database, seen, by_link, token):
    """The answer is the same for any text."""
    await waiting(jobs)

    with pytest.raises(NotFound, match="not valid"):
        await seen(token)
    with pytest.raises(NotFound, match="not valid"):
        await by_link(token)


# ── decide ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_link_decides_in_the_name_of_who_got_it(jobs, database, by_link):
    """Job, link and history have the same data: who, what, when, from where, why."""
    [ticket] = await waiting(jobs)

    done = await by_link(await link(database, ticket), note="Fine, thank you.")

    row = await jobs.row(ticket[0], ASK)
    assert (row["status"], row["version"], row["wait_until"]) == ("approved", ticket[1] + 1, None)
    last = (await jobs.history(ticket[0]))[-1]
    assert (last.change_action, last.changed_by, last.change_reason) == ("decide", ANN, "Fine, thank you.")
    assert (str(last.ip_address), last.user_agent) == ("192.0.2.9", "Firefox")
    [kept] = await tokens(jobs)
    assert (kept["decision"], kept["note"]) == ("approved", "Fine, thank you.")
    assert (str(kept["ip_address"]), kept["user_agent"]) == ("192.0.2.9", "Firefox")
    assert (done.state, done.is_own, done.moved_by) == (LinkState.DECIDED, True, ANN)


async def test_a_second_click_learns_what_the_first_one_did(jobs, database, by_link):
    """The second click is a conflict with the first decision, and changes nothing."""
    [ticket] = await waiting(jobs)
    token = await link(database, ticket)
    await by_link(token)

    for into in ("approved", "rejected"):
        with pytest.raises(Conflict, match=r"decided already: approved, by Ann Applicant .* at 20"):
            await by_link(token, into)

    assert (await jobs.row(ticket[0], ASK))["version"] == ticket[1] + 1


async def test_two_who_were_asked_decide_once(jobs, database, by_link, seen):
    """The other link can no longer decide, and says who decided."""
    [ticket] = await waiting(jobs)
    hers, his = await link(database, ticket), await link(database, ticket, to="Ben <ben@example.org>")
    await by_link(hers, "rejected")

    with pytest.raises(Conflict, match="decided already: rejected, by Ann"):
        await by_link(his)

    found = await seen(his)
    assert (found.state, found.is_own, found.became) == (LinkState.DECIDED, False, "rejected")


@pytest.mark.parametrize("turn", range(20))
async def test_of_links_that_are_used_at_once_one_decides(jobs, database, by_link, turn):
    """Two people click twice each: one transition and three conflicts."""
    [ticket] = await waiting(jobs)
    links = [await link(database, ticket), await link(database, ticket, to="Ben <ben@example.org>")] * 2

    found = await asyncio.gather(
        *(by_link(token, into) for token, into in zip(links, ["approved", "rejected"] * 2, strict=True)),
        return_exceptions=True,
    )

    assert sorted(type(one).__name__ for one in found) == ["Approval", "Conflict", "Conflict", "Conflict"]
    assert (await jobs.actions(ticket[0])).count("decide") == 1
    assert sum(row["used_at"] is not None for row in await tokens(jobs)) == 1


async def test_a_decision_that_is_not_committed_uses_no_link(jobs, database, by_link):
    """If the server dies before the commit, the link can be used again."""
    [ticket] = await waiting(jobs)
    token = await link(database, ticket)

    async with database.session() as session:
        await decide_by_link(session, token, "approved", actor=BROWSER)
        await session.rollback()

    assert (await jobs.row(ticket[0], ASK))["status"] == "awaiting_approval"
    assert (await by_link(token)).is_own


async def test_a_link_decides_only_what_it_offers(jobs, database, by_link):
    """Other decisions of this wait are refused."""
    [ticket] = await waiting(jobs)
    token = await link(database, ticket, choices=(DecisionChoice(into="rejected", label="No"),))

    with pytest.raises(Refusal, match="decision must be one of rejected"):
        await by_link(token, "approved")
    [row] = await jobs.sql("SELECT runtime.decide_by_token(%s, 'approved')", token)
    assert row["decide_by_token"] is False

    assert (await by_link(token, "rejected")).became == "rejected"


async def test_a_link_of_an_earlier_wait_decides_no_later_one(jobs, database, by_link, seen):
    """An old mail cannot decide a later wait, even one of the same kind."""
    [ticket] = await waiting(jobs)
    old = await link(database, ticket)
    [further] = await decided(jobs, [ticket], SECOND_OPINION, actor=BORIS, until=timedelta(hours=1))

    with pytest.raises(Conflict, match="decided already: in review, by boris"):
        await by_link(old)

    assert further.version
    assert (await seen(await link(database, (ticket[0], further.version)))).state is LinkState.OPEN


async def test_a_link_of_an_expired_wait_says_when_it_expired(jobs, database, by_link, seen):
    """The state is expired before and after beat ends the wait, and is not a decision."""
    [ticket] = await overdue(jobs)
    token = await link(database, ticket)

    with pytest.raises(Conflict):
        await by_link(token)
    assert await expired(jobs) == 1

    with pytest.raises(Conflict, match="this expired at"):
        await by_link(token)
    assert (await seen(token)).state is LinkState.EXPIRED
    assert (await jobs.row(ticket[0], ASK))["status"] == "lapsed"


async def test_a_link_ends_at_its_own_time(jobs, database, by_link, seen):
    """This holds even if the job waits longer."""
    [ticket] = await waiting(jobs)
    token = await link(database, ticket, until=datetime.now(UTC) - timedelta(seconds=1))

    assert (await seen(token)).state is LinkState.EXPIRED
    with pytest.raises(Conflict, match="this expired at"):
        await by_link(token)
    assert (await jobs.row(ticket[0], ASK))["status"] == "awaiting_approval"


async def test_a_cancelled_job_has_nothing_to_decide(jobs, database, by_link, seen):
    """The page shows that the job was cancelled."""
    [ticket] = await waiting(jobs)
    token = await link(database, ticket)
    await cancelled(jobs, ticket[0])

    with pytest.raises(Conflict, match="cancelled"):
        await by_link(token)

    assert (await seen(token)).state is LinkState.CANCELLED


async def test_a_revoked_link_decides_nothing(jobs, database, by_link, seen):
    """The links of one person or of all can be revoked."""
    [ticket] = await waiting(jobs)
    hers, his = await link(database, ticket), await link(database, ticket, to="ben@example.org")
    async with database.session() as session:
        assert await revoke(session, WaitingJob, ticket[0], recipient=ANN) == 1

    with pytest.raises(Conflict, match=r"Ann Applicant .* is no longer asked"):
        await by_link(hers)
    assert ((await seen(hers)).state, (await seen(his)).state) == (LinkState.REVOKED, LinkState.OPEN)

    async with database.session() as session:
        assert await revoke(session, WaitingJob, ticket[0]) == 1


async def test_a_decision_and_an_expiry_that_meet_have_one_outcome(jobs, database, by_link):
    """The first to lock the row wins; the link is marked as used only if it wins."""
    [ticket] = await waiting(jobs, until=timedelta(seconds=0.3))
    token = await link(database, ticket)

    async def expire_soon() -> None:
        while (await jobs.row(ticket[0], ASK))["status"] == "awaiting_approval":
            await expired(jobs)

    clicks: list[Any] = []
    expiring = asyncio.create_task(expire_soon())
    while not expiring.done():
        clicks += await asyncio.gather(by_link(token), return_exceptions=True)
    await expiring

    won = [one for one in clicks if isinstance(one, Approval)]
    [row] = await tokens(jobs)
    assert len(won) == (row["used_at"] is not None)
    assert (await jobs.actions(ticket[0]))[-1] == ("decide" if won else "expire")


@pytest.mark.parametrize("note", ["x" * 2_001, "a\x00b"])
async def test_a_note_that_cannot_be_kept_is_refused(jobs, database, by_link, note):
    """It is refused before the decision."""
    [ticket] = await waiting(jobs)
    token = await link(database, ticket)

    with pytest.raises(Refusal, match="note must have"):
        await by_link(token, note=note)

    assert (await by_link(token)).is_own


async def test_who_the_session_said_acts_acts_again_afterwards(jobs, database):
    """The recipient acts only for this one statement."""
    [ticket] = await waiting(jobs)
    token = await link(database, ticket)

    async with database.session() as session:
        await decide_by_link(session, token, "approved", actor=BROWSER)
        said = await session.scalar(text("SELECT current_setting('gristmill.changed_by', true)"))

    assert said == "test"


# ── by a door that knows the person ──────────────────────────────────────────────────────────────────────────────────


async def test_a_door_that_knows_the_person_decides_without_a_link(jobs, database, by_link):
    """Links for the same wait can then no longer decide."""
    [ticket] = await waiting(jobs)
    token = await link(database, ticket)

    async with database.session() as session:
        [won] = await decide(
            session, WaitingJob, [Decision(job_id=ticket[0], version=ticket[1], into="rejected")], actor=BORIS
        )

    assert won.won
    with pytest.raises(Conflict, match="decided already: rejected, by boris"):
        await by_link(token)


async def test_a_domain_ends_its_own_waits(jobs, database):
    """Beat does the same each minute."""
    [ticket] = await overdue(jobs)

    async with database.session() as session:
        assert await expire(session, WaitingJob) == 1

    assert (await jobs.row(ticket[0], ASK))["status"] == "lapsed"


async def test_the_page_of_a_link_goes_with_its_state(jobs, database, by_link, seen):
    """The page has buttons while the link is open; afterwards it says who decided."""
    [ticket] = await waiting(jobs)
    token = await link(database, ticket)
    before = build_page(await seen(token), zone="Europe/London")

    after = build_page(await by_link(token), zone="Europe/London")

    assert [choice.into for choice in before.choices] == ["approved", "rejected"]
    assert after.choices == ()
    assert after.facts == before.facts
    assert after.lines[0].startswith(f"Decided by you ({ANN}) on ")
