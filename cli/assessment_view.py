"""An assessment as text: the facts, the verdict, each criterion with its reasons, the history."""

import json
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import ValidationError

from cli.values import format_count, format_duration, format_time
from workers.assessment.result import AssessmentResult, PartResult
from workers.assessment.store.history import AuditRow
from workers.assessment.store.rows import AssessmentView
from workers.judging.json_schema import SchemaCheck
from workers.judging.judgement import CriterionResult
from workers.runtime.refusals import quoted

WIDTH = 78
MAX_ERRORS = 10


def list_cells(assessment: AssessmentView, *, with_owner: bool = False) -> Sequence[object]:
    """Return the cells of one row of a list, in the order of :func:`list_columns`."""
    return (
        assessment.assessment_id,
        *((assessment.owner_id or "–",) if with_owner else ()),
        assessment.request.get("assessmentType"),
        assessment.status,
        assessment.version,
        f"{assessment.progress} %",
        assessment.priority,
        format_time(assessment.created_at),
        textwrap.shorten(_verdict_or_error(assessment), 80, placeholder="…"),
    )


def _verdict_or_error(assessment: AssessmentView) -> str:
    """Return the first problem of the row itself, else its error or its verdict."""
    if problems := _row_problems(assessment):
        return problems[0]
    text = assessment.error_message if assessment.status == "failed" else (assessment.result_data or {}).get("verdict")
    return str(text or "")


def _row_problems(assessment: AssessmentView) -> list[str]:
    """Return one line for each part of the row that cannot be read."""
    problems = list(assessment.unreadable.values())
    for name in ("request_data", "result_data"):
        value = getattr(assessment, name)
        missing = value is None and name == "request_data" and name not in assessment.unreadable
        if missing or not isinstance(value, dict | None):
            problems.append(f"{name} must be a JSON object, got {quoted(value)}")
    return problems


def list_columns(*, with_owner: bool = False) -> Sequence[str]:
    """Return the columns of a list; the owner only if an assessment has one."""
    first, *others = _COLUMNS
    return (first, *(("OWNER",) if with_owner else ()), *others)


_COLUMNS = ("ASSESSMENT", "TYPE", "STATE", ">VERSION", ">DONE", ">PRIO", "CREATED", "VERDICT / ERROR")


def fact_lines(assessment: AssessmentView) -> Iterator[str]:
    """Yield the lines above the result."""
    ran = assessment.completed_at and assessment.started_at and assessment.completed_at - assessment.started_at
    request = assessment.request
    facts = {
        "assessment": assessment.assessment_id,
        "owner": assessment.owner_id,
        "server": request.get("serverName"),
        "type": request.get("assessmentType"),
        "state": f"{assessment.status}, {assessment.progress} %, version {assessment.version}",
        "error": assessment.error_message,
        "attempts": f"{assessment.retry_count + (assessment.status != 'pending')} of {assessment.max_retries + 1}",
        "priority": assessment.priority,
        "created": format_time(assessment.created_at),
        "due": format_time(assessment.due_at),
        "completed": format_time(assessment.completed_at) + (f" (ran {format_duration(ran)})" if ran else ""),
        "job": assessment.id,
    }
    for name, value in facts.items():
        if value not in (None, ""):
            yield f"{name:<12}{value}"
    for line in _row_problems(assessment):
        yield f"{'! unclear':<12}{line}"


def result_lines(data: Any) -> Iterator[str]:
    """Yield the lines of a result, criterion by criterion; if another service wrote it in another form, its JSON."""
    try:
        yield from _verdict(AssessmentResult.model_validate(data))
    except ValidationError:
        yield from json.dumps(data, indent=2, ensure_ascii=False, default=str).splitlines()


def _verdict(result: AssessmentResult) -> Iterator[str]:
    by = f", by {result.model}" if result.model else ""
    yield f"{result.verdict.upper()}  {result.score:.2f}  ({result.assessment_type}{by})"
    if result.note:
        yield f"note: {result.note}"
    for flag in result.flags:
        yield from _wrapped(f"! {flag}", indent="", hang="  ")
    if result.schema_check:
        yield from _schema(result.schema_check)
    for criterion in result.criteria:
        yield ""
        yield from _criterion(criterion)
    for part in result.parts:
        yield ""
        yield from _part(part)


def _criterion(one: CriterionResult) -> Iterator[str]:
    judge = "by rule" if one.rule_based else "by the model"
    scale = f"{one.points:g} on {one.lowest:g}–{one.highest:g}"
    yield f"{one.name:<24}{score_bar(one.score)} {one.score:.2f}   {scale}, weight {one.weight:g}, {judge}"
    yield from _wrapped(one.reasoning, indent="    ", hang="    ")
    for evidence in one.evidence:
        yield from _wrapped(f"– {evidence}", indent="    ", hang="      ")


def _part(part: PartResult) -> Iterator[str]:
    yield f"── {part.name} ({part.assessment_type}), weight {part.weight:g}, counts for {part.share:.0%}: {part.status}"
    if part.error:
        yield from _wrapped(part.error, indent="    ", hang="    ")
    if part.result:
        yield from (f"   {line}".rstrip() for line in _verdict(part.result))


def _schema(check: SchemaCheck) -> Iterator[str]:
    yield f"schema: {'valid' if check.valid else format_count(check.error_count, 'error')} against {check.against}"
    for error in check.errors[:MAX_ERRORS]:
        yield from _wrapped(f"– {error.path}: {error.message}", indent="    ", hang="      ")
    if check.error_count > MAX_ERRORS:
        yield f"    … and {check.error_count - MAX_ERRORS} more (--json shows them)"


def score_bar(score: float, cells: int = 10) -> str:
    """Return a bar for a score from 0 to 1."""
    full = round(score * cells)
    return "█" * full + "·" * (cells - full)


def _wrapped(text: str, *, indent: str, hang: str) -> Iterator[str]:
    yield from textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=hang)


def history_rows(trail: Sequence[AuditRow]) -> Iterator[Sequence[object]]:
    """Yield the cells of the audit trail, in the order of :data:`HISTORY_COLUMNS`."""
    for one in trail:
        origin = " ".join(str(part) for part in (one.ip_address, one.user_agent) if part)
        context = json.dumps(one.context, ensure_ascii=False) if one.context else ""
        yield (
            one.version_to,
            format_time(one.created_at),
            one.old_state or "–",
            one.new_state,
            one.change_action,
            one.changed_by,
            one.change_reason,
            origin,
            context,
        )


HISTORY_COLUMNS = (">VERSION", "WHEN", "FROM", "TO", "ACTION", "BY", "REASON", "FROM WHERE", "CONTEXT")
