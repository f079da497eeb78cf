"""A score as text: the sum, then each criterion with a bar, its reasoning and its evidence."""

import json
import textwrap
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from cli.assessment_view import score_bar
from workers.scoring.score import CriterionScore, ProfileScore

_WIDTH = 78


def score_lines(parsed_score: Any) -> Iterator[str]:
    """Yield the lines of a score; if another service wrote it in another form, its JSON."""
    if parsed_score is None:
        return
    try:
        score = ProfileScore.model_validate(parsed_score)
    except ValidationError:
        yield from json.dumps(parsed_score, indent=2, ensure_ascii=False, default=str).splitlines()
        return
    yield f"{score.overall:g} of 100  (by {score.model})"
    for flag in score.flags:
        yield from textwrap.wrap(f"! {flag}", _WIDTH, subsequent_indent="  ")
    for criterion in score.criteria:
        yield ""
        yield from _criterion(criterion)


def _criterion(one: CriterionScore) -> Iterator[str]:
    yield f"{one.name:<24}{score_bar(one.score / 100)} {one.score:g}   weight {one.weight:g}"
    yield from textwrap.wrap(one.reasoning, _WIDTH, initial_indent="    ", subsequent_indent="    ")
    for evidence in one.evidence:
        yield from textwrap.wrap(f"– {evidence}", _WIDTH, initial_indent="    ", subsequent_indent="      ")
