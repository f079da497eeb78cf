"""Make the Celery application: its settings handed in, its tasks made from the registry."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from celery import Celery, signals
from kombu import Exchange, Queue

from config.celery import SYSTEM_QUEUE, celery_settings
from workers.runtime.handler.registry import Registry
from workers.runtime.operate.requests import DOOR
from workers.transport.envelopes import use_careful_transport

MAINTAIN = "gristmill.maintain"


def create_app(broker_url: str, registry: Registry) -> Celery:
    """Return a Celery application with one queue per first word of the registered stages, and the system queue."""
    app = Celery("gristmill", set_as_current=False, autofinalize=True)
    use_careful_transport()
    signals.setup_logging.connect(_leave_logging_alone)
    app.conf.update(celery_settings(broker_url))
    # The nameless exchange delivers by queue name: nothing is declared in Redis, so a flush loses no binding.
    app.conf.task_queues = [
        Queue(name, Exchange("", type="direct"), routing_key=name) for name in queue_names(registry)
    ]
    return app


def _leave_logging_alone(**_: Any) -> None:
    """Keep the logging that the entry point configured: Celery configures its own only where nobody listens here."""


def queue_names(registry: Registry) -> list[str]:
    """Return every queue there is, the system queue last."""
    return [*sorted({stage.queue for stage in registry.values()}), SYSTEM_QUEUE]


def add_tasks(
    app: Celery,
    registry: Registry,
    *,
    take: Mapping[str, Callable[["Delivery"], str | None]],
) -> None:
    """Register a carrier task per stage, the ``gristmill.enqueue`` door and ``gristmill.maintain``.

    ``take`` names who takes what comes: ``carrier``, ``door`` and ``maintain``. None of the tasks sends Celery events:
    what Flower shows are jobs. The door acknowledges late, after its row is committed; its message is all there is of
    the job until then.
    """
    for name in registry:
        app.task(name=name, send_events=False, bind=True)(_task(name, take["carrier"]))
    app.task(name=DOOR, send_events=False, acks_late=True, bind=True)(_task(DOOR, take["door"]))
    app.task(name=MAINTAIN, send_events=False, bind=True)(_task(MAINTAIN, take["maintain"]))


@dataclass(frozen=True, slots=True)
class Delivery:
    """What a message brought to one of the tasks, whatever that is: nobody has looked at it yet."""

    task: str
    message_id: Any
    queue: str | None
    arguments: Sequence[Any]
    keywords: Mapping[str, Any]


def _task(name: str, take: Callable[[Delivery], str | None]) -> Callable[..., str | None]:
    # The task itself is positional only: a message may bring a keyword of any name.
    def task(celery: Any, /, *arguments: Any, **keywords: Any) -> str | None:
        about = celery.request.delivery_info or {}
        return take(Delivery(name, celery.request.id, about.get("routing_key"), arguments, keywords))

    return task
