"""What a worker's row says of its provider is shown whatever it is: rows can be written by hand."""

from typing import Any

import pytest

from workers.llm.answering import describe_report, report_of


@pytest.mark.parametrize("reported", [5, "five", [], [1], True, 0.5])
def test_a_report_that_is_no_object_is_a_problem_and_no_crash(reported: Any):
    assert "must be an object" in report_of(reported)["problem"]
    assert "must be an object" in describe_report(reported)


@pytest.mark.parametrize("reported", [None, {}])
def test_a_worker_that_has_not_told_says_nothing(reported: Any):
    assert describe_report(reported) == ""


def test_each_part_may_be_anything_and_the_words_are_one_line():
    assert describe_report({"provider": 5, "url": ["a"], "model": {"b": 1}}) == "5 ['a'] {'b': 1}"
    assert describe_report({"provider": "openai", "problem": "no\nkey"}) == "openai: no key"
