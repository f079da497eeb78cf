"""What a request may give to be judged, and by what: criteria, content, how the model is asked. Pure."""

import json
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from models.scoring import DEFAULT_MODEL
from workers.judging.criteria import MAX_CRITERIA, Criterion, first_repeated

CONTENT_BYTES = 60_000  # about 20,000 tokens


class RequestedCriterion(Criterion):
    """A criterion as a request gives it."""

    description: Annotated[str, StringConstraints(max_length=2_000)] = ""


def _distinct(criteria: tuple[RequestedCriterion, ...]) -> tuple[RequestedCriterion, ...]:
    if twice := first_repeated(criterion.name for criterion in criteria):
        raise ValueError(f"must name each criterion once, got {twice!r} twice")
    return criteria


def _readable(content: Any) -> Any:
    """Refuse what no model could be shown: nothing, or more than it could read. Nothing is cut silently."""
    if content in (None, [], {}) or (isinstance(content, str) and not content.strip()):
        raise ValueError(f"must not be empty, got {content!r}")
    try:
        size = len(json.dumps(content, ensure_ascii=False).encode("utf-8", "replace"))
    except RecursionError:
        raise ValueError("must not be nested so deeply, got more than a thousand levels") from None
    if size > CONTENT_BYTES:
        raise ValueError(f"must have at most {CONTENT_BYTES:,} bytes as JSON, got {size:,}")
    return content


Criteria = Annotated[
    tuple[RequestedCriterion, ...], Field(min_length=1, max_length=MAX_CRITERIA), AfterValidator(_distinct)
]
Content = Annotated[str | dict[str, Any] | list[Any], AfterValidator(_readable)]
Document = Annotated[dict[str, Any], AfterValidator(_readable)]


class JudgeOptions(BaseModel):
    """How the model is asked: which one, and whether each criterion gets a call of its own."""

    model_config = ConfigDict(extra="forbid")

    model: Annotated[str, StringConstraints(min_length=1, max_length=50, pattern=r"^[A-Za-z0-9][\w.:/@+-]*$")] = (
        DEFAULT_MODEL
    )
    separately: bool = False
