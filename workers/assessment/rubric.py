"""Types for the options of assessors that use a model: criteria, content, model. Pure."""

import json
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from models.scoring import DEFAULT_MODEL
from workers.judging.criteria import MAX_CRITERIA, Criterion, first_repeated

MAX_CONTENT_BYTES = 60_000  # about 20,000 tokens


class RequestedCriterion(Criterion):
    """A criterion in a request, with a limit on its description."""

    description: Annotated[str, StringConstraints(max_length=2_000)] = ""


def _check_distinct(criteria: tuple[RequestedCriterion, ...]) -> tuple[RequestedCriterion, ...]:
    if twice := first_repeated(criterion.name for criterion in criteria):
        raise ValueError(f"must name each criterion once, got {twice!r} twice")
    return criteria


def _check_content(content: Any) -> Any:
    """Refuse empty content, and content that is too large for a model. Content is never cut silently."""
    if content in (None, [], {}) or (isinstance(content, str) and not content.strip()):
        raise ValueError(f"must not be empty, got {content!r}")
    try:
        size = len(json.dumps(content, ensure_ascii=False).encode("utf-8", "replace"))
    except RecursionError:
        raise ValueError("must be nested at most a thousand levels deep, got more") from None
    if size > MAX_CONTENT_BYTES:
        raise ValueError(f"must have at most {MAX_CONTENT_BYTES:,} bytes as JSON, got {size:,}")
    return content


Criteria = Annotated[
    tuple[RequestedCriterion, ...], Field(min_length=1, max_length=MAX_CRITERIA), AfterValidator(_check_distinct)
]
Content = Annotated[str | dict[str, Any] | list[Any], AfterValidator(_check_content)]
Document = Annotated[dict[str, Any], AfterValidator(_check_content)]


class JudgeOptions(BaseModel):
    """The model to ask, and whether each criterion gets its own call."""

    model_config = ConfigDict(extra="forbid")

    model: Annotated[str, StringConstraints(min_length=1, max_length=50, pattern=r"^[A-Za-z0-9][\w.:/@+-]*$")] = (
        DEFAULT_MODEL
    )
    separately: bool = False
