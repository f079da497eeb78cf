"""The registry of assessors: a type is one file, and nothing else is edited."""

import pytest
from pydantic import BaseModel

from workers.assessment.registry import Assessors, assessor, assessors


class NoOptions(BaseModel):
    pass


def test_the_shipped_types_are_found_without_naming_them():
    """By looking through the folder."""
    assert {"composite", "llm_rubric", "mcp_server"} <= set(assessors)


def test_a_type_is_registered_by_its_decorator():
    """Under its name, with its options."""
    mine = Assessors()

    @assessor("mine", options=NoOptions, into=mine)
    async def assess(request, options, desk): ...

    assert mine["mine"].options is NoOptions
    assert mine["mine"].assess is assess


def test_a_name_is_given_once():
    """Two assessors of a name would take turns by import order."""
    mine = Assessors()
    register = assessor("mine", options=NoOptions, into=mine)

    async def assess(request, options, desk): ...

    register(assess)
    with pytest.raises(ValueError, match="'mine' is registered twice"):
        register(assess)
