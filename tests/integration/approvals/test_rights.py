"""Rights on links: the gateway decides only with a token, and services cannot use links."""

import pytest
from psycopg import errors, sql
from sqlalchemy import text

from tests.support.approvals import ANN, link, question
from tests.support.proving.models import WaitingJob
from tests.support.waits import ASK, waiting
from workers.approvals.decisions import LinkState, decide_by_link, read_approval
from workers.approvals.links import JobWait, issue, new_token, revoke
from workers.runtime.actor import Actor
from workers.runtime.beat.maintenance import expire_by_table


@pytest.fixture
def speaking(psql):
    """Act as a role until the test ends."""

    def speak(role: str):
        psql.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(role)))
        return psql

    yield speak
    psql.execute("RESET ROLE")


async def as_role(session, role: str) -> None:
    await session.execute(text(f"SET LOCAL ROLE {role}"))


async def test_a_gateway_decides_with_a_token(jobs, database):
    """It has no right on the job's table; the history names the recipient of the link."""
    [ticket] = await waiting(jobs)
    token = await link(database, ticket)

    async with database.session() as session:
        await as_role(session, "gristmill_gateway")
        assert (await read_approval(session, token)).state is LinkState.OPEN
        done = await decide_by_link(session, token, "approved", actor=Actor(ip_address="192.0.2.9"))

    assert (done.state, done.is_own) == (LinkState.DECIDED, True)
    assert (await jobs.row(ticket[0], ASK))["status"] == "approved"
    last = (await jobs.history(ticket[0]))[-1]
    assert last.changed_by == f"gristmill_gateway as {ANN}"


async def test_a_gateway_without_a_token_decides_nothing(jobs, database, speaking):
    """It cannot use the table of links or the job's table, and cannot guess a token."""
    [ticket] = await waiting(jobs)
    await link(database, ticket)
    gateway = speaking("gristmill_gateway")

    for statement in (
        "SELECT * FROM runtime.approval_tokens",
        "UPDATE runtime.approval_tokens SET token_hash = sha256('x')",
        "INSERT INTO runtime.approval_tokens (token_hash) VALUES (sha256('x'))",
        "UPDATE proving.waiting_jobs SET status = 'approved', version = version + 1",
    ):
        with pytest.raises(errors.InsufficientPrivilege):
            gateway.execute(statement)
    for token in ("", new_token(), None):
        row = gateway.execute("SELECT runtime.decide_by_token(%s, 'approved')", [token]).fetchone()
        assert row == {"decide_by_token": False}

    assert (await jobs.row(ticket[0], ASK))["status"] == "awaiting_approval"


@pytest.mark.parametrize("role", ["gristmill_service", "gristmill_dispatcher"])
@pytest.mark.parametrize(
    "statement",
    [
        "SELECT runtime.decide_by_token('x', 'approved')",
        "SELECT * FROM runtime.read_approval('x')",
        "SELECT count(*) FROM runtime.approval_tokens",
        "DELETE FROM runtime.approval_tokens",
    ],
)
def test_nobody_else_uses_links(speaking, role, statement):
    """A tenant decides its own waits by `runtime.decide` if their table allows it."""
    with pytest.raises(errors.InsufficientPrivilege):
        speaking(role).execute(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT token_hash FROM runtime.approval_tokens",
        "SELECT * FROM runtime.approval_tokens",
        "UPDATE runtime.approval_tokens SET used_at = now(), decision = 'approved'",
        "UPDATE runtime.approval_tokens SET note = 'she said yes'",
        "UPDATE runtime.approval_tokens SET recipient = 'eve@example.org'",
        "UPDATE runtime.approval_tokens SET version = version + 1",
        "INSERT INTO runtime.approval_tokens (used_at) VALUES (now())",
    ],
)
def test_a_worker_makes_links_and_writes_no_decision(speaking, statement):
    """It cannot read hashes, so it cannot act as a person."""
    with pytest.raises(errors.InsufficientPrivilege):
        speaking("gristmill_worker").execute(statement)


async def test_a_worker_issues_replaces_and_revokes(jobs, database):
    """The handler that writes the mails needs these rights."""
    [ticket] = await waiting(jobs)
    asked = JobWait(WaitingJob, *ticket)

    async with database.session() as session:
        await as_role(session, "gristmill_worker")
        first = await issue(session, asked, question(), recipient=ANN, purpose="ask")
        second = await issue(session, asked, question(), recipient=ANN, purpose="ask")
        assert (await read_approval(session, second)).state is LinkState.OPEN
        assert await revoke(session, WaitingJob, ticket[0]) == 1
        assert (await read_approval(session, second)).state is LinkState.REVOKED

    assert first != second


async def test_old_links_are_deleted_by_maintenance(jobs, database):
    """They are deleted 90 days after they expired."""
    [old], [new] = await waiting(jobs), await waiting(jobs)
    for ticket in (old, new):
        await link(database, ticket)
    await jobs.sql(
        "UPDATE runtime.approval_tokens SET expires_at = now() - interval '91 days' WHERE job_id = %s", old[0]
    )

    deleted = await expire_by_table(database)

    assert deleted["runtime.approval_tokens"] == 1
    assert [row["job_id"] for row in await jobs.sql("SELECT job_id FROM runtime.approval_tokens")] == [new[0]]
