"""The grammar of prompts: a task in free text, then criteria with weights."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.scoring.rubric import (
    DEFAULT_CRITERIA,
    PACKAGE_CRITERIA,
    PACKAGE_PROMPT,
    RubricError,
    criterion,
    parse,
    render,
    split,
)

NAMES = st.from_regex(r"[a-zA-Z0-9é/&-]{1,12}( [a-zA-Z0-9'%-]{1,12}){0,2}", fullmatch=True)
DESCRIPTIONS = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]) | st.just(" "), max_size=60).map(
    lambda text: " ".join(text.split())
)
WEIGHTS = st.integers(1, 1_000).map(float) | st.sampled_from([0.5, 0.25, 33.3])
CRITERIA = st.lists(
    st.builds(criterion, NAMES, WEIGHTS, DESCRIPTIONS),
    min_size=1,
    max_size=6,
    unique_by=lambda one: one.name.casefold(),
)


def test_criteria_are_read_with_weight_and_description():
    """The documented form, with a description that continues in an indented line."""
    prompt = "Judge it.\n\nCriteria:\n- documentation (35): usage,\n  examples\n- clarity (65%): plain words\n"

    assert split(prompt) == (
        "Judge it.",
        (criterion("documentation", 35, "usage, examples"), criterion("clarity", 65, "plain words")),
    )


def test_text_after_a_blank_line_belongs_to_the_task():
    """The list ends at a blank line."""
    task, criteria = split("Before.\r\nCRITERIA:\r\n- a: x\r\n- b\r\n\r\nAfter.")

    assert task == "Before.\n\nAfter."
    assert criteria == (criterion("a", 1, "x"), criterion("b", 1, ""))


@pytest.mark.parametrize(
    "prompt",
    ["Is it good?", "Evaluation Criteria:\n\nCoherence (1-5) - the quality.", "Criteria:\nbe fair", "Criteria:"],
)
def test_free_text_is_judged_by_the_default_criteria(prompt):
    """A prompt without a list of criteria is valid."""
    assert split(prompt) == (prompt, DEFAULT_CRITERIA)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("- a (10): x\nnot a criterion", "got 'not a criterion'"),
        ("- a (many): x", "weight must be a number like 30, got 'many'"),
        ("- a (0): x", "weight of 'a' must be from 0.01 to 1000, got 0"),
        ("- a (10): x\n- b: y", "for all criteria or for none"),
        ("- a: x\n- A: y", "criterion 'a' is listed twice"),
        ("- " + "long " * 20 + ": x", "at most 80 characters"),
        ("\n".join(f"- c{number}" for number in range(21)), "at most 20 criteria, got 21"),
        ("- : x", "'- name (weight): description'"),
    ],
)
def test_misspelt_criteria_are_refused_with_the_rule(lines, said):
    """A malformed list is refused and not read as free text."""
    with pytest.raises(RubricError, match=re.escape(said)):
        parse(f"Judge.\n\nCriteria:\n{lines}")


@settings(max_examples=80, deadline=None)
@given(CRITERIA)
def test_rendered_criteria_are_read_back(criteria):
    """``split`` reads back what ``render`` writes."""
    assert split(render(criteria, task="Judge it.")) == ("Judge it.", tuple(criteria))


def test_builtin_package_rubric():
    """The package prompt has the four criteria, and their weights sum to 100."""
    assert parse(PACKAGE_PROMPT) == PACKAGE_CRITERIA
    assert [one.name for one in PACKAGE_CRITERIA] == ["documentation", "clarity", "maintenance", "openness"]
    assert sum(one.weight for one in PACKAGE_CRITERIA) == sum(one.weight for one in DEFAULT_CRITERIA) == 100
