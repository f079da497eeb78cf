"""Answers that are used for less than a second: how old they get, and how many statements they cost."""

import asyncio

import pytest

from gateway.callers.fresh import MAX_AGE_SECONDS, MAX_ENTRIES, FreshLookup


class Source:
    """What the database would answer, and every question to it."""

    def __init__(self) -> None:
        self.rows: dict[str, int] = {"a": 1, "b": 2}
        self.fails = False
        self.asked: list[list[str]] = []
        self.now = 100.0
        self.go = asyncio.Event()
        self.go.set()
        self.lookup = FreshLookup(self.answer, clock=lambda: self.now)

    async def answer(self, keys):
        self.asked.append(list(keys))
        if self.fails:
            raise ValueError("no answer")
        answers = {key: self.rows[key] for key in keys if key in self.rows}
        await self.go.wait()
        return answers


async def test_an_answer_is_used_until_its_age_ends():
    """Then the next question asks again, and sees what changed."""
    source = Source()
    assert await source.lookup.get("a") == 1
    del source.rows["a"]

    source.now += MAX_AGE_SECONDS / 2
    assert await source.lookup.get("a") == 1
    source.now += MAX_AGE_SECONDS
    assert await source.lookup.get("a") is None
    assert source.asked == [["a"], ["a"]]


async def test_the_age_counts_from_the_question():
    """A slow answer is old when it comes."""
    source = Source()
    source.go.clear()
    first = asyncio.create_task(source.lookup.get("a"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    source.now += 2 * MAX_AGE_SECONDS
    source.go.set()
    assert await first == 1
    del source.rows["a"]

    assert await source.lookup.get("a") is None


async def test_everybody_who_waits_shares_one_statement():
    """A second one starts only when the first has its answer."""
    source = Source()
    source.go.clear()
    waiting = [asyncio.create_task(source.lookup.get(key)) for key in ("a", "b", "c", "a")]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    more = [asyncio.create_task(source.lookup.get(key)) for key in ("d", "d", "a")]
    await asyncio.sleep(0)
    source.go.set()

    assert await asyncio.gather(*waiting, *more) == [1, 2, None, 1, None, None, 1]
    assert [sorted(keys) for keys in source.asked] == [["a", "b", "c"], ["a", "d"]]


async def test_an_error_reaches_all_who_wait_and_is_not_remembered():
    """The next question tries again."""
    source = Source()
    source.fails = True

    answers = await asyncio.gather(*(source.lookup.get("a") for _ in range(3)), return_exceptions=True)
    source.fails = False

    assert [type(answer) for answer in answers] == [ValueError] * 3
    assert await source.lookup.get("a") == 1


async def test_a_caller_that_gives_up_does_not_take_the_answer_from_others():
    """A client that disconnects cancels only its own request."""
    source = Source()
    source.go.clear()
    one, other = (asyncio.create_task(source.lookup.get("a")) for _ in range(2))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    one.cancel()
    source.go.set()

    assert await other == 1


async def test_only_so_many_answers_are_kept():
    """Somebody who invents keys does not fill the memory."""
    source = Source()

    for n in range(MAX_ENTRIES + 50):
        await source.lookup.get(str(n))

    assert len(source.lookup._known) == MAX_ENTRIES


async def test_closing_ends_who_waits():
    """A process that stops leaves no request waiting for ever."""
    source = Source()
    source.go.clear()
    waiting = asyncio.create_task(source.lookup.get("a"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    await source.lookup.close()

    with pytest.raises(asyncio.CancelledError):
        await waiting
