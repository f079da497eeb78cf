"""``mcp_server``: check the description of an MCP server against its schema, and judge how well it serves people."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from workers.assessment.mcp_findings import findings, variables
from workers.assessment.registry import AssessorTools, assessor
from workers.assessment.request import AssessmentRequest
from workers.assessment.result import AssessmentResult, verdict_of
from workers.assessment.rubric import Document, JudgeOptions
from workers.assessment.server_schema import check_server
from workers.judging.criteria import Criterion
from workers.judging.json_schema import SchemaCheck
from workers.judging.judgement import CriterionResult, Judgement, Subject, judge, overall

SCHEMA_CHECK_SHARE = 0.2
SCHEMA_WEIGHT, RULES_WEIGHT = 25.0, 20.0
FINDING_COST = 0.2
MAX_FINDINGS_SHOWN = 20
TASK = (
    "Judge how well this description of an MCP server (Model Context Protocol) serves a person who decides whether to "
    "install it and then does."
)

CRITERIA = (
    Criterion(
        name="naming",
        weight=10,
        description="the namespace is the publisher's, such as io.github.owner or a domain turned round, and the name "
        "behind it tells which server it is",
    ),
    Criterion(
        name="description",
        weight=25,
        description="a clear description says what the server does, for which tools, assistants or agents, and with "
        "which service, API or data it connects through the Model Context Protocol",
    ),
    Criterion(
        name="installability",
        weight=25,
        description="a package in a named registry with version and arguments to run it, or a remote with transport "
        "and url: enough to install and start the server",
    ),
    Criterion(
        name="repository",
        weight=15,
        description="a public source repository with its url, which belongs to the publisher that the name tells",
    ),
    Criterion(
        name="secrets",
        weight=15,
        description="every environment variable or header has a description; API keys, tokens and passwords are "
        "required inputs marked secret, never values",
    ),
    Criterion(
        name="version",
        weight=10,
        description="an exact version with its release date, and a package version that agrees with it",
    ),
)


class McpServerOptions(JudgeOptions):
    """``server`` is the description. ``schema`` is a published schema to check it with; None for Gristmill's own."""

    model_config = ConfigDict(extra="forbid", validate_by_alias=True)

    server: Document
    server_schema: Annotated[Document | None, Field(alias="schema")] = None


@assessor("mcp_server", options=McpServerOptions)
async def assess_mcp_server(
    request: AssessmentRequest, options: McpServerOptions, tools: AssessorTools
) -> AssessmentResult:
    """Check the description against its schema and fixed rules, and let a model judge its quality.

    A description that breaks its schema is always ``invalid``. Secrets are judged only if the user must set variables
    or headers.
    """
    checked = await asyncio.to_thread(check_server, options.server, options.server_schema)
    await tools.progress(SCHEMA_CHECK_SHARE)
    criteria = [one for one in CRITERIA if one.name != "secrets" or variables(options.server)]
    subject = Subject(name=request.server_name, content=options.server, task=TASK)
    judged = await judge(
        subject,
        criteria,
        llm=tools.llm,
        model=options.model,
        progress=_judgement_progress(tools),
        separately=options.separately,
    )
    return _result(request, options.server, checked, judged)


def _judgement_progress(tools: AssessorTools) -> Callable[[float], Awaitable[None]]:
    """Return the progress function for the judgement, which begins after the schema check."""

    async def progress(share: float) -> None:
        await tools.progress(SCHEMA_CHECK_SHARE + (1 - SCHEMA_CHECK_SHARE) * share)

    return progress


def _result(
    request: AssessmentRequest, server: Mapping[str, Any], checked: SchemaCheck, judged: Judgement
) -> AssessmentResult:
    noticed = findings(server)
    criteria = [_schema_criterion(checked), _rules_criterion(noticed), *judged.criteria]
    score = overall(criteria)
    more = [f"and {len(noticed) - MAX_FINDINGS_SHOWN} more findings"] if len(noticed) > MAX_FINDINGS_SHOWN else []
    unasked = [] if variables(server) else ["secrets not judged: there is no variable or header to set"]
    return AssessmentResult(
        assessment_type=request.assessment_type,
        score=score,
        verdict=verdict_of(score) if checked.valid else "invalid",
        criteria=criteria,
        schema_check=checked,
        flags=[*noticed[:MAX_FINDINGS_SHOWN], *more, *unasked, *judged.flags],
        model=judged.model,
        rule_based=judged.rule_based,
        note=judged.note,
        prompt_tokens=judged.prompt_tokens,
        completion_tokens=judged.completion_tokens,
    )


def _schema_criterion(checked: SchemaCheck) -> CriterionResult:
    """Return the criterion of the schema check: 1 if the description is valid, else 0."""
    said = f"valid against {checked.against}" if checked.valid else f"breaks {checked.against}"
    count = "" if checked.valid else f" in {checked.error_count} place{'s' if checked.error_count > 1 else ''}"
    shown = [f"{error.path}: {error.message}" for error in checked.errors[:3]]
    score = 1.0 if checked.valid else 0.0
    return _rule_criterion("schema", score, weight=SCHEMA_WEIGHT, reasoning=said + count, evidence=shown)


def _rules_criterion(noticed: list[str]) -> CriterionResult:
    """Return the criterion of the fixed rules: each finding costs a fifth of its score."""
    score = max(0.0, round(1 - FINDING_COST * len(noticed), 4))
    found = f"fixed rules found {len(noticed)} problem{'s' if len(noticed) > 1 else ''}"
    reasoning = found if noticed else "fixed rules found no problem"
    return _rule_criterion("rules", score, weight=RULES_WEIGHT, reasoning=reasoning, evidence=noticed[:3])


def _rule_criterion(name: str, score: float, *, weight: float, reasoning: str, evidence: list[str]) -> CriterionResult:
    return CriterionResult(
        name=name,
        score=score,
        points=score,
        lowest=0.0,
        highest=1.0,
        weight=weight,
        evidence=evidence,
        reasoning=reasoning,
        rule_based=True,
    )
