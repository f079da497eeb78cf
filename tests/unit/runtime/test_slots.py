"""Slots: shared by all stages while nobody waits, shared out while somebody does."""

import asyncio

from workers.runtime.shares import Crowd, crowd_of, room_beside, share_of
from workers.runtime.worker.slots import Slots


def test_a_stage_takes_every_slot_while_nobody_else_waits():
    """Shares take nothing from anybody for nothing."""
    slots = Slots(16)

    assert slots.take("a", 100) == 16
    assert (slots.free, slots.take("a", 1)) == (0, 0)


def test_each_stage_has_a_little_room_beside_the_slots():
    """If others hold all slots, it still runs some jobs; no more than that."""
    slots = Slots(16)
    slots.take("a", 16)

    assert slots.take("b", 100) == room_beside(16) == 2
    assert slots.take("b", 1) == 0
    assert slots.take("c", 1) == 1
    assert slots.free == -3


def test_room_beside_is_not_used_again_before_the_slots_are_free():
    """What ran beside them counts: a slot that becomes free meanwhile is no free slot."""
    slots = Slots(16)
    slots.take("a", 16)
    slots.take("b", 2)

    slots.give_back("a", 1)

    assert (slots.free, slots.take("a", 1)) == (-1, 0)


async def test_a_stage_with_its_share_gives_way_while_another_one_waits():
    """The slots that become free go to the other one, and then to the first again."""
    slots = Slots(16)
    slots.take("a", 14)
    slots.take("b", 2)
    waiting = asyncio.create_task(slots.reserve("b", 4))
    await asyncio.sleep(0)

    slots.give_back("a", 4)

    assert slots.take("a", 4) == 0
    assert await waiting == 4
    assert slots.take("a", 1) == 0
    slots.give_back("b", 4)
    assert slots.take("a", 10) == 4


async def test_who_gave_way_goes_on_once_the_other_has_its_slots():
    """Both wait; neither waits for ever."""
    slots = Slots(8)
    slots.take("a", 8)
    slots.take("b", 1)
    both = asyncio.gather(slots.reserve("a", 8), slots.reserve("b", 1))
    await asyncio.sleep(0)

    slots.give_back("a", 5)
    assert (await asyncio.wait_for(both, 2))[1] == 1

    assert slots.free >= 0


async def test_closed_slots_let_nobody_wait():
    """A draining process gives its batches back at once."""
    slots = Slots(1)
    slots.take("a", 1)
    waiting = asyncio.create_task(slots.reserve("a", 1))
    await asyncio.sleep(0)

    slots.close()

    assert await waiting == 0
    assert (slots.take("b", 1), slots.take_beside("a", 1)) == (0, 0)


def test_room_behind_a_crowd_is_counted_apart():
    """It comes back with the runs that had it."""
    slots = Slots(16)
    slots.take("a", 16)

    assert slots.take_beside("a", 5) == 2
    assert slots.take_beside("a", 1) == 0
    slots.give_back("a", beside=True)
    assert slots.take_beside("a", 5) == 1


def test_who_holds_more_than_half_is_a_crowd():
    """By owner and by key; exactly half is no crowd."""
    assert crowd_of({"o": 5, "p": 5}, {"k": 10}, slots=10) == Crowd(frozenset(), frozenset({"k"}))
    assert not crowd_of({"o": 1}, {}, slots=1)
    assert share_of(1) == room_beside(1) == 1


def test_a_crowd_of_one_owner_and_one_key_leaves_its_other_keys_alone():
    """The jobs of a hanging provider hold the slots, not all that its owner has."""
    crowd = Crowd({"o"}, {"k"})

    assert crowd.has("o", "k")
    assert not crowd.has("o", "other")
    assert not crowd.has("p", "k")
    assert Crowd({"o"}).has("o", "any")
    assert Crowd(keys={"k"}).has("anybody", "k")
    assert not Crowd().has("o", "k")
