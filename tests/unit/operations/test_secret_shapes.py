"""Text that looks like a key is detected; no model name looks like one."""

import random
import string
from pathlib import Path

import pytest

from tests.support.secret_keys import KEY_PREFIXES
from workers.operations.secret_shapes import looks_secret

NAMES = (Path(__file__).parent / "model_names.txt").read_text().split()
LETTERS = string.ascii_letters + string.digits


def test_no_name_of_a_model_is_taken_for_a_key():
    """300 real model names, including the longest."""
    assert len(NAMES) == 300
    assert [name for name in NAMES if looks_secret(name)] == []


@pytest.mark.parametrize("begins", KEY_PREFIXES)
def test_what_begins_as_keys_do_is_taken_for_one(begins):
    """A key is detected alone, in a URL and in a sentence."""
    key = f"{begins}{'abcd' * 5}"

    assert looks_secret(key)
    assert looks_secret(f"https://host/v1/{key}")
    assert looks_secret(f"key: {key}")
    assert not looks_secret(f"x{begins[:2]}")


@pytest.mark.parametrize(
    ("alphabet", "length"),
    [(LETTERS, 24), (LETTERS, 32), (LETTERS, 64), (LETTERS + "-_", 43), (string.ascii_lowercase + string.digits, 40)],
)
def test_a_long_random_token_is_taken_for_a_key_however_it_begins(alphabet, length):
    """Keys with unknown prefixes are detected too. A few of a hundred random tokens look like words."""
    chance = random.Random(length)

    found = [looks_secret("".join(chance.choices(alphabet, k=length))) for _ in range(1_000)]

    assert sum(found) > 950


@pytest.mark.parametrize(
    "value",
    [
        "0123456789abcdef0123456789abcdef",
        "0123456789ABCDEF0123456789ABCDEF0123456789ABCDEF",
    ],
)
def test_hexadecimal_digits_alone_are_taken_for_a_key(value):
    """Some clouds use such keys. In a name or a path, such text is a revision or an account."""
    assert looks_secret(value)
    assert not looks_secret(f"vendor/model@{value}")
    assert not looks_secret(f"https://api.cloud.example/client/v4/accounts/{value}/ai/v1")


@pytest.mark.parametrize(
    "value",
    [
        "http://127.0.0.1:1234/v1",
        "https://my-resource-name-in-west-europe.openai.azure.com/openai/deployments/gpt-4o-mini-2024-07-18",
        "https://gateway.ai.example.com/v1/0198a5f2-7c1e-7000-8000-000000000001/production-gateway/openai",
        "the server of the second floor, until 2027-12-31",
        "",
    ],
)
def test_addresses_and_sentences_are_none(value):
    """Long names with numbers, ids and dates are not keys."""
    assert not looks_secret(value)
