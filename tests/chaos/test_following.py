"""The checker finds callbacks that are missing, false or unsigned, and streams with gaps or jobs of others."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from tests.chaos.evidence import Evidence, Message
from tests.chaos.sound import OPERATOR, TENANT, Reader, SoundRun, changed, judge

ARRIVES, SIGNED = "every callback arrives", "every callback is signed"
TRUE, SAME_ID = "a callback says how its job ended", "a repeated callback keeps its id"
ONCE, OWN = "a stream shows each transition once", "a tenant's stream has its own jobs only"


def messages(change: Callable[[Message], list[Message]]) -> Callable[[Evidence], None]:
    """Return a change of the evidence: other messages in the place of the one that arrived."""

    def damage(evidence: Evidence) -> None:
        evidence.messages = change(evidence.messages[0])

    return damage


@pytest.mark.parametrize(
    ("damage", "broken"),
    [
        (messages(lambda _: []), [ARRIVES]),
        (messages(lambda one: [replace(one, is_accepted=False)]), [ARRIVES]),
        (messages(lambda one: [replace(one, is_signed=False)]), [ARRIVES, SIGNED]),
        (messages(lambda one: [one, replace(one, is_signed=False)]), [SIGNED]),
        (messages(lambda one: [replace(one, state="failed")]), [TRUE]),
        (messages(lambda one: [replace(one, version=one.version - 1)]), [TRUE]),
        (messages(lambda one: [one, replace(one, job_id=uuid4())]), [TRUE]),
        (messages(lambda one: [one, replace(one, id="msg_2")]), [SAME_ID]),
        (messages(lambda one: [one, replace(one, is_accepted=False)]), []),
    ],
)
async def test_a_false_callback_is_found(
    left: SoundRun, reader: Reader, damage: Callable[[Evidence], None], broken: list[str]
) -> None:
    """At least one must be accepted, and each must be true. The same message may come several times."""
    assert (await judge(reader, changed(left, damage))).failed == broken


def streams(name: str, change: Callable[[list[Any]], object]) -> Callable[[Evidence], None]:
    """Return a change of what one client was shown."""

    def damage(evidence: Evidence) -> None:
        change(evidence.streams[name].shown)

    return damage


@pytest.mark.parametrize(
    ("damage", "broken"),
    [
        (streams(OPERATOR, lambda shown: shown.pop()), [ONCE]),
        (streams(OPERATOR, lambda shown: shown.append(shown[0])), [ONCE]),
        (streams(OPERATOR, lambda shown: shown.append((uuid4(), 1))), []),
        (streams(TENANT, lambda shown: shown.pop(0)), [ONCE]),
        (streams(TENANT, lambda shown: shown.append((uuid4(), 1))), [OWN]),
    ],
)
async def test_a_false_stream_is_found(
    left: SoundRun, reader: Reader, damage: Callable[[Evidence], None], broken: list[str]
) -> None:
    """An operator also sees jobs that are not of the load."""
    assert (await judge(reader, changed(left, damage))).failed == broken
