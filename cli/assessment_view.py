"""How a person reads an assessment: the facts, the verdict, each criterion with its reasons, the history. Pure text."""

import json
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import ValidationError

from cli.values import duration, moment
from workers.assessment.result import AssessmentResult, PartResult
from workers.assessment.store.history import AuditRow
from workers.assessment.store.rows import AssessmentView
from workers.judging.json_schema import SchemaCheck
from workers.judging.judgement import CriterionResult
from workers.runtime.refusals import quoted

WIDTH = 78
ERRORS_SHOWN = 10


def row(assessment: AssessmentView, *, with_owner: bool = False) -> Sequence[object]:
    """Return the cells of one line of a list, as :func:`columns` names them."""
    return (
        assessment.assessment_id,
        *((assessment.owner_id or "–",) if with_owner else ()),
        assessment.request.get("assessmentType"),
        assessment.status,
        assessment.version,
        f"{assessment.progress} %",
        assessment.priority,
        moment(assessment.created_at),
        textwrap.shorten(_told(assessment), 80, placeholder="…"),
    )


def _told(assessment: AssessmentView) -> str:
    """Return what a list says of it at the end: what is wrong with the row itself, else its error or verdict."""
    if wrong := _wrong(assessment):
        return wrong[0]
    told = assessment.error_message if assessment.status == "failed" else (assessment.result_data or {}).get("verdict")
    return str(told or "")


def _wrong(assessment: AssessmentView) -> list[str]:
    """Return why parts of the row cannot be read as what they are meant to be, in one line each."""
    wrong = list(assessment.unreadable.values())
    for name in ("request_data", "result_data"):
        value = getattr(assessment, name)
        missing = value is None and name == "request_data" and name not in assessment.unreadable
        if missing or not isinstance(value, dict | None):
            wrong.append(f"{name} must be a JSON object, got {quoted(value)}")
    return wrong


def columns(*, with_owner: bool = False) -> Sequence[str]:
    """Return the names of a list's columns; the owner's only where somebody owns something."""
    first, *others = COLUMNS
    return (first, *(("OWNER",) if with_owner else ()), *others)


COLUMNS = ("ASSESSMENT", "TYPE", "STATE", ">VERSION", ">DONE", ">PRIO", "CREATED", "VERDICT / ERROR")


def facts(assessment: AssessmentView) -> Iterator[str]:
    """Yield the lines above the result."""
    ran = assessment.completed_at and assessment.started_at and assessment.completed_at - assessment.started_at
    request = assessment.request
    told = {
        "assessment": assessment.assessment_id,
        "owner": assessment.owner_id,
        "server": request.get("serverName"),
        "type": request.get("assessmentType"),
        "state": f"{assessment.status}, {assessment.progress} %, version {assessment.version}",
        "error": assessment.error_message,
        "attempts": f"{assessment.retry_count + (assessment.status != 'pending')} of {assessment.max_retries + 1}",
        "priority": assessment.priority,
        "created": moment(assessment.created_at),
        "due": moment(assessment.due_at),
        "completed": moment(assessment.completed_at) + (f" (ran {duration(ran)})" if ran else ""),
        "job": assessment.id,
    }
    for name, value in told.items():
        if value not in (None, ""):
            yield f"{name:<12}{value}"
    for line in _wrong(assessment):
        yield f"{'! unclear':<12}{line}"


def result_lines(data: Any) -> Iterator[str]:
    """Yield the lines of a result: one of ours criterion by criterion, one that another service made as JSON."""
    try:
        yield from _verdict(AssessmentResult.model_validate(data))
    except ValidationError:
        yield from json.dumps(data, indent=2, ensure_ascii=False, default=str).splitlines()


def _verdict(found: AssessmentResult) -> Iterator[str]:
    by = f", by {found.model}" if found.model else ""
    yield f"{found.verdict.upper()}  {found.score:.2f}  ({found.assessment_type}{by})"
    if found.note:
        yield f"note: {found.note}"
    for flag in found.flags:
        yield from _wrapped(f"! {flag}", indent="", hang="  ")
    if found.schema_check:
        yield from _schema(found.schema_check)
    for criterion in found.criteria:
        yield ""
        yield from _criterion(criterion)
    for part in found.parts:
        yield ""
        yield from _part(part)


def _criterion(one: CriterionResult) -> Iterator[str]:
    judge = "by rule" if one.rule_based else "by the model"
    scale = f"{one.points:g} on {one.lowest:g}–{one.highest:g}"
    yield f"{one.name:<24}{bar(one.score)} {one.score:.2f}   {scale}, weight {one.weight:g}, {judge}"
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
    yield f"schema: {'valid' if check.valid else f'{check.error_count} errors'} against {check.against}"
    for error in check.errors[:ERRORS_SHOWN]:
        yield from _wrapped(f"– {error.path}: {error.message}", indent="    ", hang="      ")
    if check.error_count > ERRORS_SHOWN:
        yield f"    … and {check.error_count - ERRORS_SHOWN} more (--json shows them)"


def bar(score: float, cells: int = 10) -> str:
    """Return a bar for a score from 0 to 1."""
    full = round(score * cells)
    return "█" * full + "·" * (cells - full)


def _wrapped(text: str, *, indent: str, hang: str) -> Iterator[str]:
    yield from textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=hang)


def history(trail: Sequence[AuditRow]) -> Iterator[Sequence[object]]:
    """Yield the cells of the audit trail, as :data:`HISTORY` names them."""
    for one in trail:
        where = " ".join(str(part) for part in (one.ip_address, one.user_agent) if part)
        more = json.dumps(one.context, ensure_ascii=False) if one.context else ""
        yield (
            one.version_to,
            moment(one.created_at),
            one.old_state or "–",
            one.new_state,
            one.change_action,
            one.changed_by,
            one.change_reason,
            where,
            more,
        )


HISTORY = (">VERSION", "WHEN", "FROM", "TO", "ACTION", "BY", "REASON", "FROM WHERE", "CONTEXT")
