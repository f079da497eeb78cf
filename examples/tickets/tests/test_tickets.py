"""A model rates tickets, with a real database and a real worker."""

from gristmill_testing.database import check_domain


async def test_the_answer_of_the_model_is_kept(worker, fake_model):
    fake_model.will_answer({"urgency": "low"})

    job = await worker.run("tickets.triage", {"text": "Where is my order?"})

    assert (job.status, job.urgency) == ("completed", "low")
    assert fake_model.asked[0][-1]["content"] == "Where is my order?"


async def test_an_answer_that_is_not_an_urgency_fails_the_job(worker, fake_model):
    fake_model.will_answer({"urgency": "soon"})

    job = await worker.run("tickets.triage", {"text": "Where is my order?"})

    assert job.status == "failed"
    assert len(fake_model.asked) == 1 + job.max_retries


def test_models_and_revisions_agree(database_url):
    check_domain(database_url, "tickets")
