"""A handler reaches the outside world of its worker process through its context."""

import mailbox

from tests.support.fakes.web_server import web_server
from tests.support.kernel import started_worker
from tests.support.proving.llm import NoModel
from workers.outbound.addresses import parse_networks
from workers.outbound.http import SafeHttp
from workers.outbound.mail import Maildir
from workers.runtime.handler.outcomes import Complete
from workers.runtime.handler.outside import Letter, Request
from workers.runtime.handler.resources import Resources


async def test_a_handler_calls_and_writes(jobs, database_url, perform, tmp_path):
    """The handler sends the answer of a real server as a mail into a real Maildir."""

    @perform
    async def handler(job, ctx):
        answer = await ctx.resources.http.send(Request(url=job.key))
        letter = Letter(to="ann@example.org", subject="Fetched", text=answer.body.decode(), key=f"{job.id}")
        await ctx.resources.mail.send(letter)
        return Complete({"result": {"status": answer.status}})

    async with web_server() as web:
        web.say("/", b"42")
        http = SafeHttp(allow=parse_networks(["127.0.0.0/8"]))
        outside = Resources(llm=NoModel(), http=http, mail=Maildir(tmp_path / "mail", sender="mill@example.com"))
        async with started_worker(database_url, perform.registry, resources=outside) as worker:
            await worker.run(await jobs.dispatched(key=web.url()))
        await outside.aclose()

    assert await jobs.count(status="completed") == 1
    [letter] = mailbox.Maildir(tmp_path / "mail", create=False)
    assert letter.get_payload() == "42\n"


async def test_an_address_inside_the_network_fails_the_job_for_good(jobs, database_url, perform):
    """The job fails at once, without another attempt; the reason is on the job."""

    @perform
    async def handler(job, ctx):
        await ctx.resources.http.send(Request(url="http://169.254.169.254/latest/meta-data/"))
        return Complete()

    outside = Resources(llm=NoModel(), http=SafeHttp())
    async with started_worker(database_url, perform.registry, resources=outside) as worker:
        await worker.run(tickets := await jobs.dispatched())
    await outside.aclose()

    row = await jobs.row(tickets[0][0])
    assert (row["status"], row["retry_count"]) == ("failed", 0)
    assert "its address is a metadata service" in row["error_message"]


async def test_a_mail_server_that_is_away_spends_no_attempt(jobs, database_url, perform):
    """The job waits, like for a provider that is away."""
    from workers.outbound.mail import SmtpMail, SmtpServer

    @perform
    async def handler(job, ctx):
        await ctx.resources.mail.send(Letter(to="ann@example.org", subject="s", text="t", key="k"))
        return Complete()

    mail = SmtpMail(SmtpServer.read("smtp://127.0.0.1:1"), sender="mill@example.com")
    async with started_worker(database_url, perform.registry, resources=Resources(llm=NoModel(), mail=mail)) as worker:
        await worker.run(tickets := await jobs.dispatched())

    row = await jobs.row(tickets[0][0])
    assert (row["status"], row["retry_count"]) == ("pending", 0)
    assert row["due_at"] is not None
