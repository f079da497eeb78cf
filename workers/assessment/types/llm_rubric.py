"""``llm_rubric``: a model judges the content of the request by the criteria of the request."""

from typing import Annotated

from pydantic import StringConstraints

from workers.assessment.registry import AssessorTools, assessor
from workers.assessment.request import AssessmentRequest
from workers.assessment.result import AssessmentResult, verdict_of
from workers.assessment.rubric import Content, Criteria, JudgeOptions
from workers.judging.judgement import Subject, judge, overall


class RubricOptions(JudgeOptions):
    """``content`` is text or JSON; ``task`` says in free text what the content is judged for."""

    criteria: Criteria
    content: Content
    task: Annotated[str, StringConstraints(max_length=4_000)] = ""


@assessor("llm_rubric", options=RubricOptions)
async def assess_by_rubric(
    request: AssessmentRequest, options: RubricOptions, tools: AssessorTools
) -> AssessmentResult:
    """Judge the content by each criterion. Every criterion is answered exactly once, within its scale."""
    subject = Subject(
        name=request.server_name, content=options.content, task=options.task or f"Assess {request.server_name}."
    )
    judged = await judge(
        subject,
        options.criteria,
        llm=tools.llm,
        model=options.model,
        progress=tools.progress,
        separately=options.separately,
    )
    score = overall(judged.criteria)
    return AssessmentResult(
        assessment_type=request.assessment_type,
        score=score,
        verdict=verdict_of(score),
        criteria=judged.criteria,
        flags=judged.flags,
        model=judged.model,
        rule_based=judged.rule_based,
        note=judged.note,
        prompt_tokens=judged.prompt_tokens,
        completion_tokens=judged.completion_tokens,
    )
