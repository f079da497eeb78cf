"""The registry of assessors: one file adds a type."""

import pytest
from pydantic import BaseModel

from workers.assessment.registry import Assessors, assessor, assessors


class NoOptions(BaseModel):
    pass


def test_the_shipped_types_are_found_without_naming_them():
    """The registry imports all files of the folder."""
    assert {"composite", "llm_rubric", "mcp_server"} <= set(assessors)


def test_a_type_is_registered_by_its_decorator():
    """The registry has the type's name and options."""
    mine = Assessors()

    @assessor("mine", options=NoOptions, into=mine)
    async def assess(request, options, desk): ...

    assert mine["mine"].options is NoOptions
    assert mine["mine"].assess is assess


def test_a_name_is_given_once():
    """With two assessors of one name, the import order would decide."""
    mine = Assessors()
    register = assessor("mine", options=NoOptions, into=mine)

    async def assess(request, options, desk): ...

    register(assess)
    with pytest.raises(ValueError, match="'mine' is registered twice"):
        register(assess)
