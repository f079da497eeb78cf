"""The request of scoring.score, and the rules of its stage."""

from datetime import timedelta
from uuid import uuid4

import pytest
from pydantic import ValidationError

from models.scoring import DEFAULT_MODEL, ScoringJob
from workers.runtime.handler.limits import Limit
from workers.runtime.handler.registry import registry
from workers.scoring.score_profile import ScoreRequest, score_profile

PROFILE = uuid4()


def test_request_has_the_seeds_default_model():
    """A profile and a prompt are enough for a request; the prompt is stripped."""
    request = ScoreRequest(profile_id=PROFILE, prompt="  Judge it.\n")

    assert (request.prompt, request.model_name) == ("Judge it.", DEFAULT_MODEL)


@pytest.mark.parametrize("model", ["openai/gpt-4o:free", "llama3.2", "ft:gpt-4o:acme::1", "HF/Qwen2.5@q4", "a" * 50])
def test_model_names_of_all_providers_are_accepted(model):
    """A model name may have a vendor prefix, a tag and a version."""
    assert ScoreRequest(profile_id=PROFILE, prompt="x", model_name=model).model_name == model


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("prompt", " \n\t", "must not be empty"),
        ("prompt", "a\x00b", "NUL"),
        ("prompt", "x" * 20_001, "at most 20000"),
        ("prompt", "Criteria:\n- a (x): y", "weight must be a number"),
        ("model_name", "", "must be a model name like"),
        ("model_name", "gpt 4", "got 'gpt 4'"),
        ("model_name", "gpt-4\n", "must be a model name like"),
        ("model_name", "a" * 51, "at most 50"),
        ("profile_id", "me", "UUID"),
    ],
)
def test_invalid_request_names_its_field(field, value, said):
    """The error says which field breaks which rule."""
    with pytest.raises(ValidationError) as caught:
        ScoreRequest(**{"profile_id": PROFILE, "prompt": "x"} | {field: value})

    (problem,) = caught.value.errors()
    assert problem["loc"] == (field,)
    assert said in problem["msg"]


def test_stage_is_registered_with_its_rules():
    """At most ten jobs of one profile are in flight, a run has two minutes, and the queue is that of the domain."""
    stage = registry["scoring.score"]

    assert stage.handler is score_profile
    assert (stage.model, stage.payload) == (ScoringJob, ScoreRequest)
    assert stage.limit == Limit(column="profile_id", at_most=10)
    assert (stage.timeout, stage.queue) == (timedelta(minutes=2), "scoring")
    assert set(ScoreRequest.model_fields) <= set(ScoringJob.__table__.columns.keys())
