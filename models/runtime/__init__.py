"""The tables of the kernel, in the schema ``runtime``: transitions, lifecycles, stages, workers, schedules."""

from models.runtime.api_keys import ApiKey
from models.runtime.approvals import ApprovalToken
from models.runtime.counts import CountDelta, MinuteCount, StageCount
from models.runtime.dead_messages import DeadMessage
from models.runtime.gates import Gate
from models.runtime.history import LifecycleDefinition, Transition
from models.runtime.measurements import ActionCount, Measurement
from models.runtime.notices import Notice, NoticeInterest, NoticeTaker
from models.runtime.processes import LeadingDispatcher, WorkerProcess
from models.runtime.providers import ProviderPause
from models.runtime.schedules import Schedule, Tick
from models.runtime.security import ActorKey, Retention, RoleActor, Security
from models.runtime.stages import StageState

__all__ = [
    "ActionCount",
    "ActorKey",
    "ApiKey",
    "ApprovalToken",
    "CountDelta",
    "DeadMessage",
    "Gate",
    "LeadingDispatcher",
    "LifecycleDefinition",
    "Measurement",
    "MinuteCount",
    "Notice",
    "NoticeInterest",
    "NoticeTaker",
    "ProviderPause",
    "Retention",
    "RoleActor",
    "Schedule",
    "Security",
    "StageCount",
    "StageState",
    "Tick",
    "Transition",
    "WorkerProcess",
]
