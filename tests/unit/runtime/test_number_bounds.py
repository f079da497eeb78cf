"""The limit of a number is the characters that Postgres writes for it, in every form."""

from decimal import Decimal
from typing import Any

import pytest

from workers.runtime.bounds import MAX_PAYLOAD_BYTES, number_problem, payload_problem
from workers.runtime.handler.documents import Unkeepable, is_number, keepable


@pytest.mark.parametrize("number", [0, -1, 10**307, 0.1, 5e-324, -1e308, Decimal("0.30"), Decimal("1e-324"), True])
def test_ordinary_numbers_are_taken(number: Any):
    assert number_problem(number) is None
    assert is_number(number)
    assert payload_problem({"n": number}) is None


@pytest.mark.parametrize(
    "number",
    [
        10**309,
        float("nan"),
        float("inf"),
        *map(
            Decimal, ("1e-16383", "0e-16383", "-1e-401", "1e16383", "1e5000", "nan", "sNaN", "-inf", f"1.{'0' * 500}")
        ),
    ],
)
def test_numbers_that_fill_pages_or_are_none_are_refused(number: Any):
    """This includes zero with 16,383 decimals and a decimal NaN."""
    assert number_problem(number) is not None
    assert not is_number(number)
    said = payload_problem({"n": [number]})
    assert said is not None
    assert str(said).startswith("n.0 must ")
    with pytest.raises(Unkeepable):
        keepable({"n": number}, name="request")


@pytest.mark.parametrize("number", [5e-324, 1e308, 10**300, Decimal("1e-380")])
def test_a_payload_counts_each_number_as_long_as_postgres_writes_it(number: Any):
    """A mebibyte of JSON with exponents would be 50 MB as text of the database."""
    assert payload_problem({"n": [number] * 1_000}) is None
    said = payload_problem({"n": [number] * (MAX_PAYLOAD_BYTES // 300)})
    assert str(said) == f"payload must have at most {MAX_PAYLOAD_BYTES:,} bytes, got more"


def test_ordinary_numbers_count_what_json_needs():
    assert payload_problem({"n": [0.25] * 150_000 + [7] * 40_000}) is None
    assert payload_problem({"n": [0.123456789012345] * 100_000}) is not None
