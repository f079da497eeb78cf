"""The request of an assessment, checked by the same rules at every door. Pure."""

from datetime import datetime
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic.alias_generators import to_camel

from workers.runtime.handler.documents import Unkeepable, keepable
from workers.runtime.handler.errors import Permanent
from workers.runtime.refusals import first_problem

M = TypeVar("M", bound=BaseModel)
Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=255)]


class AssessmentRequest(BaseModel):
    """The value of ``request_data``: ``serverName``, ``assessmentType``, ``options``, ``timestamp``, ``source``.

    The type defines the members of ``options``. Members beyond these five belong to the service that wrote them. They
    are stored and not used.
    """

    model_config = ConfigDict(extra="allow", alias_generator=to_camel, validate_by_name=True, validate_by_alias=True)

    server_name: Name
    assessment_type: Name
    options: dict[str, Any] = Field(default_factory=dict)
    timestamp: datetime | None = None
    source: str | None = None


def parse_request(data: object) -> AssessmentRequest:
    """Return the request in ``data``; raise Permanent with one line: field, rule and value."""
    try:
        keepable(data, name="request_data")
    except Unkeepable as error:
        raise Permanent(str(error)) from None
    return validate(AssessmentRequest, data, name="request_data")


def validate(into: type[M], data: object, *, name: str, prefix: str = "") -> M:
    """Return ``data`` as ``into``, or raise Permanent for the first problem.

    ``prefix`` is put before the path of a field. ``name`` is used if the problem has no field.
    """
    try:
        return into.model_validate(data)
    except ValidationError as error:
        outermost = len(error.errors(include_url=False)[0]["loc"]) == 1
        known = ", ".join(sorted(one.alias or key for key, one in into.model_fields.items()))
        unknown = f"is none of {known}" if outermost else "is not a member here"
        raise Permanent(str(first_problem(error, whole=name, unknown=unknown, prefix=prefix))) from None
