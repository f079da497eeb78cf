"""Stages register themselves; the registry contains no names."""

from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from tests.support.proving.models import PlainJob
from workers.runtime.handler.context import Context
from workers.runtime.handler.limits import Limit
from workers.runtime.handler.outcomes import Complete, Outcome
from workers.runtime.handler.registry import Registry, UnknownStageError, discover, stage


class Payload(BaseModel):
    act: str = "complete"


async def perform(_job: Any, _ctx: Context) -> Outcome:
    return Complete()


@pytest.fixture
def registry() -> Registry:
    return Registry()


def test_a_decorated_handler_is_registered_with_what_was_declared(registry):
    """The decorator returns the handler unchanged and registers the stage."""
    limit = Limit("key", at_most=2)

    decorate = stage("proving.plain", of=PlainJob, payload=Payload, limit=limit, into=registry)

    assert decorate(perform) is perform
    registered = registry["proving.plain"]
    assert (registered.model, registered.handler, registered.limit) == (PlainJob, perform, limit)
    assert registered.timeout == timedelta(minutes=5)
    assert registered.queue == "proving"


def test_a_handler_may_set_only_columns_of_its_own(registry):
    """It may set neither the lifecycle's columns nor the payload's."""
    stage("proving.plain", of=PlainJob, payload=Payload, into=registry)(perform)

    assert registry["proving.plain"].settable == {"seconds", "key", "result", "effects"}


def test_two_handlers_of_one_stage_are_refused(registry):
    """Otherwise the import order would decide which one runs."""
    stage("proving.plain", of=PlainJob, payload=Payload, into=registry)(perform)

    with pytest.raises(ValueError, match=r"stage 'proving.plain' is registered twice"):
        stage("proving.plain", of=PlainJob, payload=Payload, into=registry)(perform)


def test_a_stage_that_is_no_step_of_its_table_is_refused(registry):
    """The model's lifecycle declares the stages."""
    with pytest.raises(LookupError, match=r"stage 'proving.typo' is no step of this lifecycle"):
        stage("proving.typo", of=PlainJob, payload=Payload, into=registry)(perform)


def test_an_unknown_stage_names_the_known_ones(registry):
    """The error is one line with the remedy, also if no stage is known."""
    with pytest.raises(UnknownStageError, match=r"'a.b' is not registered; known stages: none"):
        registry["a.b"]

    stage("proving.plain", of=PlainJob, payload=Payload, into=registry)(perform)
    with pytest.raises(UnknownStageError, match=r"known stages: proving.plain"):
        registry["a.b"]


def test_discovery_finds_every_domain_once():
    """A handler file in a domain is enough; a second discovery changes nothing."""
    found = set(discover())

    assert "scoring.score" in found
    assert set(discover()) == found


def test_a_limit_below_one_is_refused():
    """Such a limit would stop its stage for ever."""
    with pytest.raises(ValueError, match=r"at_most must be at least 1, got 0"):
        Limit("key", at_most=0)
