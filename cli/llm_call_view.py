"""Calls of models as tables: one a row, one in full, and what the attempts of a job used."""

from collections.abc import Iterator, Sequence
from decimal import Decimal
from uuid import UUID

from cli.doctor.check import is_denied
from cli.llm_values import dollars, rate
from cli.output import print_table, remark
from cli.session import in_session
from cli.values import format_count, format_duration, format_time
from workers.llm.operate.calls import AttemptView, CallView, calls_of_job
from workers.runtime.refusals import cut


def print_calls(calls: Sequence[CallView]) -> None:
    """Print calls, one a row."""
    print_table(
        ("ID", "WHEN", "STATE", "STAGE", "PROVIDER/MODEL", ">INPUT", ">OUTPUT", ">COST", ">TOOK", "FAILURE"),
        (
            (
                call.id,
                format_time(call.created_at),
                call.state,
                call.stage or "–",
                f"{call.provider}/{call.served_model or call.model}",
                _tokens(call.input_tokens, call.estimated_input, call),
                _tokens(call.output_tokens, call.max_output, call),
                _cost(call),
                format_duration(call.took) or "–",
                cut(call.failure or "", 80),
            )
            for call in calls
        ),
        keep={"WHEN"},
    )
    if any(_is_estimate(call) for call in calls):
        remark("~ is an estimate: the call is under way, or its answer was lost")


def call_facts(call: CallView) -> Iterator[tuple[str, object]]:
    """Yield what is known of one call."""
    facts = {
        "id": call.id,
        "state": call.state,
        "when": format_time(call.created_at),
        "ended": format_time(call.settled_at),
        "took": format_duration(call.took),
        "stage": call.stage,
        "job": call.job_id and f"{call.job_id} (version {call.version}, attempt {call.attempt})",
        "owner": call.owner_id,
        "project": call.project_id,
        "profile": call.profile_id,
        "worker": call.worker_id,
        "route": f"{call.route}, step {call.step + 1}",
        "provider": call.provider,
        "model asked": call.model,
        "model that answered": call.served_model,
        "kind": call.kind,
        "lane": call.lane if call.batch_id is None else f"{call.lane}, batch {call.batch_id}",
        "estimated": f"{call.estimated_input:,} tokens in, at most {call.max_output:,} out, "
        f"{dollars(call.estimated_usd)}",
        "input": _used(call.input_tokens, call.cached_input_tokens, "cached"),
        "output": _used(call.output_tokens, call.reasoning_tokens, "reasoning"),
        "prices": call.input_price is not None
        and f"{rate(call.input_price)} in, {rate(call.cached_price or call.input_price)} cached, "
        f"{rate(call.output_price or Decimal(0))} out, per million",
        "cost": None if call.state == "reserved" else _cost(call),
        "failure": call.failure,
    }
    return ((name, value) for name, value in facts.items() if value not in (None, "", False))


def calls_of(job_id: UUID) -> list[CallView]:
    """Return the calls of a job; none where this login may not see the ledger."""
    try:
        return in_session(lambda session: calls_of_job(session, job_id))
    except Exception as error:
        if not is_denied(error):
            raise
        remark("what its calls of models used is not shown: this needs the operator's login")
        return []


def print_attempts(attempts: Sequence[AttemptView], calls: Sequence[CallView]) -> None:
    """Print what each attempt of a job used and cost, and by which path fallback answered."""
    print_table(
        ("ATTEMPT", ">CALLS", ">CACHED", ">FAILED", ">LOST", ">INPUT", ">OUTPUT", ">COST", "ANSWERED BY"),
        (
            (
                one.attempt if one.attempt is not None else "–",
                one.calls,
                one.cached,
                one.failed,
                one.orphaned,
                f"{one.input_tokens:,}",
                f"{one.output_tokens:,}",
                dollars(one.usd) if one.usd or not one.unpriced else "unknown",
                ", ".join(one.answered_by) or "–",
            )
            for one in attempts
        ),
        keep={"ATTEMPT"},
        optional={"CACHED", "FAILED", "LOST"},
    )
    usd = sum((one.usd for one in attempts), Decimal(0))
    unpriced = sum(one.unpriced for one in attempts)
    line = f"{format_count(len(calls), 'call')}, {dollars(usd)}"
    print(f"{line}, {format_count(unpriced, 'call')} of unknown price" if unpriced else line)
    print()


def _used(used: int | None, part: int | None, named: str) -> str | None:
    if used is None:
        return None
    return f"{used:,} tokens" + ("" if part is None else f", {part:,} of them {named}")


def _cost(call: CallView) -> str:
    counted_usd = call.counted_usd
    return f"~{dollars(counted_usd)}" if _is_estimate(call) and counted_usd is not None else dollars(counted_usd)


def _tokens(used: int | None, estimate: int, call: CallView) -> str:
    if used is not None:
        return f"{used:,}"
    return f"~{estimate:,}" if _is_estimate(call) else "–"


def _is_estimate(call: CallView) -> bool:
    return call.state in {"reserved", "orphaned"}
