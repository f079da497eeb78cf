"""Check what a service was told: the callbacks of its jobs, and the transitions in its streams."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple
from uuid import UUID

from tests.chaos.calls import CallVerdict
from tests.chaos.evidence import Evidence, Message

# The last transition of each of these jobs, if it is an end.
ENDS = """
SELECT DISTINCT ON (job_id) job_id, new_state, version_to FROM runtime.transitions
 WHERE job_id = ANY (%(ids)s) ORDER BY job_id, version_to DESC"""
VERSIONS = "SELECT job_id, version_to FROM runtime.transitions WHERE job_id = ANY (%(ids)s)"
# A delivery belongs to the owner of the job that it is about.
DELIVERIES = "SELECT id FROM notifications.deliveries WHERE job_id = ANY (%(ids)s)"


class End(NamedTuple):
    """How a job ended, as its history says."""

    state: str
    version: int


def judge_callbacks(evidence: Evidence, ends: Mapping[UUID, End]) -> Iterator[CallVerdict]:
    """Yield the verdicts of the rules about callbacks; ``ends`` has the last transition of the jobs that asked."""
    accepted: dict[UUID, list[Message]] = defaultdict(list)
    for message in evidence.messages:
        if message.is_accepted:
            accepted[message.job_id].append(message)
    missing = [f"{job}" for job in ends if not any(one.is_signed for one in accepted[job])]
    yield CallVerdict("every callback arrives", len(ends), missing)
    unsigned = [f"{message.job_id}" for message in evidence.messages if not message.is_signed]
    yield CallVerdict("every callback is signed", len(evidence.messages), unsigned)
    wrong = [
        f"{message.job_id} is told as {message.state} at version {message.version}"
        for message in evidence.messages
        if ends.get(message.job_id) != (message.state, message.version)
    ]
    yield CallVerdict("a callback says how its job ended", len(evidence.messages), wrong)
    ids: dict[UUID, set[str]] = defaultdict(set)
    for message in evidence.messages:
        ids[message.job_id].add(message.id)
    several = [f"{job}" for job, names in ids.items() if len(names) > 1]
    yield CallVerdict("a repeated callback keeps its id", len(ids), several)


def judge_streams(
    evidence: Evidence, versions: Sequence[tuple[UUID, int]], deliveries: AbstractSet[UUID]
) -> Iterator[CallVerdict]:
    """Yield the verdicts of the rules about streams.

    ``versions`` are the transitions of all jobs of the load, ``deliveries`` the jobs that send the tenant's callbacks.
    """
    wrong: list[str] = []
    examined = 0
    foreign: list[str] = []
    shown_to_tenants = 0
    for name, stream in evidence.streams.items():
        shown = Counter(stream.shown)
        wanted = {one for one in versions if stream.owned is None or one[0] in stream.owned}
        examined += len(wanted)
        wrong += [f"{name}: {job} at version {version} is missing" for job, version in sorted(wanted - shown.keys())]
        wrong += [f"{name}: {job} at version {version} came {n} times" for (job, version), n in shown.items() if n > 1]
        if stream.owned is not None:
            shown_to_tenants += len(shown)
            foreign += [f"{name}: {job}" for job, _ in shown if job not in stream.owned | deliveries]
    yield CallVerdict("a stream shows each transition once", examined, wrong)
    yield CallVerdict("a tenant's stream has its own jobs only", shown_to_tenants, foreign)
