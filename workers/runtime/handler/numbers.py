"""Numbers that a model gives as its judgement. Pure."""

from pydantic import BeforeValidator


def _is_no_truth(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError(  # noqa: TRY004 - what pydantic makes a validation error of
            f"must be a number, got {str(value).lower()}"
        )
    return value


# Beside the bounds of a field: JSON's true and false are no numbers, though Python counts with them. A number that is
# written as text ("85") is one.
no_truth_value = BeforeValidator(_is_no_truth)
