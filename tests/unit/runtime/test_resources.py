"""The outside world as one value: what a process lacks fails its jobs, and everything is released together."""

from dataclasses import FrozenInstanceError

import pytest

from tests.support.proving.llm import NoModel
from workers.runtime.handler.errors import Permanent
from workers.runtime.handler.outside import Letter, Request
from workers.runtime.handler.resources import NoHttp, NoMail, Resources


class Model(NoModel):
    """Remembers that it was released, and may refuse to be."""

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
    """With one line, and for good."""
    resources = Resources(llm=NoModel())

    with pytest.raises(Permanent, match="makes no HTTP calls"):
        await resources.http.send(Request(url="http://example.test"))
    with pytest.raises(Permanent, match="sends no mail"):
        await resources.mail.send(Letter(to="a@example.test", subject="s", text="t", key="k"))


async def test_one_that_cannot_be_released_keeps_no_other_from_it():
    """All are released, and all errors are told."""
    http = Http()

    with pytest.raises(ExceptionGroup, match="not released"):
        await Resources(llm=Model(OSError("broken pipe")), http=http, mail=NoMail()).aclose()

    assert http.released


async def test_all_are_released():
    """The model among them."""
    llm, http = Model(), Http()

    await Resources(llm=llm, http=http).aclose()

    assert (llm.released, http.released) == (True, True)


def test_resources_are_frozen():
    """No run changes them for another."""
    with pytest.raises(FrozenInstanceError):
        Resources(llm=NoModel()).llm = NoModel()  # type: ignore[misc]
