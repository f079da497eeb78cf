"""Which model names a provider answers to."""

import pytest

from models.scoring import DEFAULT_MODEL
from workers.llm.names import TABLE_DEFAULT, is_openai, public_url, require_openai, require_served
from workers.runtime.handler.errors import Permanent


def test_table_default_is_the_tables():
    """The name that a configured default stands in for is the one the table puts there."""
    assert TABLE_DEFAULT == DEFAULT_MODEL


@pytest.mark.parametrize(
    "model",
    [
        "gpt-3.5-turbo",
        "gpt-4o-mini-2024-07-18",
        "o3",
        "o4-mini",
        "chatgpt-4o-latest",
        "ft:gpt-4o-mini-2024-07-18:a::b1",
    ],
)
def test_openai_identifiers_are_accepted(model):
    """Present and coming models of the known families need no list."""
    require_openai(model)


@pytest.mark.parametrize("model", ["claude-3", "gpt4", "openai/gpt-4o", "GPT-4o", "oops", "gpt-4o; drop", "", "ft"])
def test_other_names_are_refused_for_openai(model):
    """A name that cannot exist there fails before it costs a call, and is named."""
    with pytest.raises(Permanent, match="no OpenAI model identifier"):
        require_openai(model)


@pytest.mark.parametrize("model", ["llama3", "llama3:latest", "vendor/m:free", "vendor/m"])
def test_served_names_may_leave_out_or_add_a_tag(model):
    """Servers list some names with a tag and some without."""
    require_served(model, {"llama3:latest", "vendor/m"}, server="http://llm.test/v1")


def test_unserved_name_is_refused_with_the_first_ten_known():
    """The reader learns what could be asked instead, not all of it."""
    known = {f"model-{number:03}" for number in range(200)}

    with pytest.raises(Permanent) as caught:
        require_served("gpt-3.5-turbo", known, server="http://llm.test/v1")

    said = str(caught.value)
    assert "'gpt-3.5-turbo' is not served by http://llm.test/v1" in said
    assert "model-009 and 190 more" in said
    assert "model-010" not in said
    assert "GRISTMILL_LLM__MODEL" in said


@pytest.mark.parametrize(
    ("url", "public"),
    [
        ("http://user:secret@llm.test:8080/v1/?key=abc", "http://llm.test:8080/v1"),
        ("https://api.openai.com/v1", "https://api.openai.com/v1"),
        ("http://[::1]:1234/v1", "http://[::1]:1234/v1"),
    ],
)
def test_public_url_carries_no_credentials(url, public):
    """The identity in keys and messages is free of secrets."""
    assert public_url(url) == public


def test_only_openais_own_host_is_openai():
    """A proxy whose path names OpenAI is another server."""
    assert is_openai("https://api.openai.com/v1")
    assert not is_openai("https://proxy.test/api.openai.com/v1")
