"""Commands show the public name of a job's state, and judge its end by its lifecycle."""

import asyncio

import pytest

from tests.support.command_line import as_json
from tests.support.waits import ASK, decided, expired, overdue, waiting


@pytest.fixture
def run(gristmill):
    """Run one command beside the event loop of the test."""

    async def run(*arguments):
        return await asyncio.to_thread(gristmill, *arguments)

    return run


async def test_a_waiting_job_is_shown_by_its_public_state(jobs, run):
    """In the list, with its facts, in its history and with what it waits for."""
    [(job_id, _)] = await waiting(jobs)

    _, listed, _ = await run("jobs", "list")
    _, shown, _ = await run("jobs", "show", str(job_id))
    _, explained, _ = await run("jobs", "why", str(job_id))

    assert " in review " in listed
    assert "status" in shown
    assert shown.count("in review") == 2
    assert explained.startswith("in review: waiting for an approval until ")
    assert "awaiting_approval" not in listed + shown + explained


async def test_json_has_the_stored_state_and_the_public_one(jobs, gristmill):
    """A script finds both."""
    [(job_id, _)] = await waiting(jobs)
    names = ("awaiting_approval", "in review")

    [listed] = await asyncio.to_thread(as_json, gristmill, "jobs", "list", "--stage", ASK)
    shown = (await asyncio.to_thread(as_json, gristmill, "jobs", "show", str(job_id)))["job"]
    explained = await asyncio.to_thread(as_json, gristmill, "jobs", "why", str(job_id))

    assert [(one["status"], one["shown_as"]) for one in (listed, shown, explained)] == [names] * 3


@pytest.mark.parametrize(("end", "code"), [("waived", 0), ("rejected", 1)])
async def test_watch_succeeds_for_every_good_end(jobs, run, end, code):
    """A domain may declare good ends beside the state completed."""
    [one] = await waiting(jobs)
    await decided(jobs, [one], end)

    result, output, _ = await run("jobs", "watch", str(one[0]))

    assert result == code
    assert output.splitlines()[-1].startswith(f"{end} in ")


async def test_watch_fails_for_a_bad_end(jobs, run):
    """A wait that expired is one."""
    [(job_id, _)] = await overdue(jobs)
    await expired(jobs)

    assert (await run("jobs", "watch", str(job_id)))[0] == 1
