"""The outside world as one value: a missing resource fails the job, and all resources are released together."""

from dataclasses import FrozenInstanceError

import pytest

from tests.support.proving.llm import NoModel
from workers.runtime.handler.errors import Permanent
from workers.runtime.handler.outside import Letter, Request
from workers.runtime.handler.resources import NoHttp, NoMail, Resources


class Model(NoModel):
    """Records that it was released; its release can fail."""

    def __init__(self, error: Exception | None = None) -> None:
        self.released = False
        self._error = error

    async def aclose(self) -> None:
        if self._error:
            raise self._error
        self.released = True


class Http(NoHttp):
    released = False

    async def aclose(self) -> None:
        self.released = True


async def test_what_a_process_lacks_fails_the_job_that_asks_for_it():
    """The job fails at once with one line."""
    resources = Resources(llm=NoModel())

    with pytest.raises(Permanent, match="makes no HTTP calls"):
        await resources.http.send(Request(url="http://example.test"))
    with pytest.raises(Permanent, match="sends no mail"):
        await resources.mail.send(Letter(to="a@example.test", subject="s", text="t", key="k"))


async def test_one_that_cannot_be_released_keeps_no_other_from_it():
    """All are released, and all errors are raised."""
    http = Http()

    with pytest.raises(ExceptionGroup, match="not released"):
        await Resources(llm=Model(OSError("broken pipe")), http=http, mail=NoMail()).aclose()

    assert http.released


async def test_all_are_released():
    """The language model is released too."""
    llm, http = Model(), Http()

    await Resources(llm=llm, http=http).aclose()

    assert (llm.released, http.released) == (True, True)


def test_resources_are_frozen():
    """No run can change them for another run."""
    with pytest.raises(FrozenInstanceError):
        Resources(llm=NoModel()).llm = NoModel()  # type: ignore[misc]


def test_a_process_without_a_key_reads_no_secret():
    """The job fails at once with one line."""
    for use in ("encrypt", "decrypt", "rotate"):
        with pytest.raises(Permanent, match="no key for stored secrets"):
            getattr(Resources(llm=NoModel()).keyring, use)("x")
