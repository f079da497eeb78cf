"""The answer that a rubric requires: evidence, reasoning and a score for each criterion, exactly once. Pure.

A model answers with one member for each criterion, so that a server which enforces the form leaves none out and adds
none. An older form, a list of objects with names, is read as well: servers that enforce nothing let a model choose.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Generic, TypeVar, cast

from pydantic import BaseModel, Field, create_model, model_validator

from workers.judging.asked import AtMost, Score
from workers.judging.criteria import key_of, members_of

MAX_NAME_SHOWN = 80

Quotes = Annotated[list[Annotated[str, AtMost(120)]], AtMost(3)]
Flags = Annotated[list[Annotated[str, AtMost(80)]], AtMost(3)]


# The score comes last, because a score before its reasons is a guess. Models read the docstrings of forms.
class CriterionAnswer(BaseModel):
    """The answer about one criterion."""

    evidence: Quotes
    reasoning: Annotated[str, AtMost(300)] = Field(description="one or two sentences")
    score: Score


C = TypeVar("C", bound=CriterionAnswer)


class RubricAnswer(BaseModel, Generic[C]):
    """The model's answer. ``criterion`` is the form of its answer about one criterion."""

    criterion: ClassVar[type[CriterionAnswer]] = CriterionAnswer

    criteria: Any
    flags: Flags = Field(default_factory=list)

    def by_key(self) -> dict[str, C]:
        """Return the answers by the key of their criterion's name."""
        fields = type(self.criteria).model_fields.items()
        return {key_of(str(field.title)): getattr(self.criteria, place) for place, field in fields}


A = TypeVar("A", bound=RubricAnswer[Any])


def answer_to(names: Iterable[str], *, form: type[A]) -> type[A]:
    """Return the type of an answer to exactly these criteria.

    A missing, unknown or repeated criterion is a validation error with a message that can be sent to the model.
    """
    return cast("type[A]", _answer_to(tuple(names), form))


@lru_cache(maxsize=256)
def _answer_to(names: tuple[str, ...], form: type[RubricAnswer[Any]]) -> type[RubricAnswer[Any]]:
    members = members_of(names)
    # The fields have names of their own: a member may be called like something that every pydantic model has.
    fields: dict[str, Any] = {
        f"criterion_{place}": (form.criterion, Field(alias=member, title=name))
        for place, (member, name) in enumerate(members.items())
    }
    criteria: type[BaseModel] = create_model("Criteria", __doc__="One member per criterion.", **fields)

    def find_each_criterion(data: Any) -> Any:
        """Return the answer with the criteria under their members, however the model named them."""
        if not isinstance(data, Mapping) or "criteria" not in data:
            return data
        return {**data, "criteria": _by_member(data["criteria"], members)}

    # Typed Any: pydantic's types do not allow the return value of its decorator here.
    validators: dict[str, Any] = {"find_each_criterion": model_validator(mode="before")(find_each_criterion)}
    return create_model(
        "RubricAnswer",
        __base__=form,
        __doc__="An answer to one rubric.",
        __validators__=validators,
        criteria=(criteria, ...),
    )


def _by_member(given: Any, members: Mapping[str, str]) -> Any:
    """Return the answers under their criteria's members; raise ValueError unless every criterion occurs once."""
    match given:
        case Mapping():
            pairs = [(str(name), answer) for name, answer in given.items()]
        case list():
            pairs = [(str(one.get("name", "")), one) for one in given if isinstance(one, Mapping)]
        case _:
            return given
    member_of = {key_of(name): member for member, name in members.items()} | {key_of(one): one for one in members}
    found = [member_of.get(key_of(name), name) for name, _ in pairs]
    if sorted(found) == sorted(members):
        return {member: answer for member, (_, answer) in zip(found, pairs, strict=True)}
    missing = ", ".join(repr(name) for member, name in members.items() if member not in found) or "none"
    surplus = [name[:MAX_NAME_SHOWN] for name, _ in pairs if key_of(name) not in member_of]
    twice = [name for member, name in members.items() if found.count(member) > 1]
    unwanted = ", ".join(map(repr, [*surplus, *twice])) or "none"
    raise ValueError(f"every criterion must be scored once; missing: {missing}; unknown or doubled: {unwanted}")
