"""Make the Celery application. Its tasks come from the registry."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from celery import Celery, signals
from kombu import Exchange, Queue

from config.celery import SYSTEM_QUEUE, celery_settings
from workers.runtime.handler.registry import Registry
from workers.runtime.operate.requests import DOOR
from workers.transport.consumer import DUE_HEADER
from workers.transport.envelopes import use_careful_transport

MAINTAIN = "gristmill.maintain"


def create_app(broker_url: str, registry: Registry) -> Celery:
    """Return a Celery application with one queue per first word of the registered stages, and the system queue."""
    app = Celery("gristmill", set_as_current=False, autofinalize=True)
    use_careful_transport()
    signals.setup_logging.connect(_leave_logging_alone)
    app.conf.update(celery_settings(broker_url))
    # The nameless exchange delivers by queue name. Nothing is declared in Redis, so a flush loses no binding.
    app.conf.task_queues = [
        Queue(name, Exchange("", type="direct"), routing_key=name) for name in queue_names(registry)
    ]
    return app


def _leave_logging_alone(**_: Any) -> None:
    """Keep the logging of the entry point. Celery configures its own only if this signal has no receiver."""


def queue_names(registry: Registry) -> list[str]:
    """Return the names of all queues. The system queue is the last."""
    return [*sorted({stage.queue for stage in registry.values()}), SYSTEM_QUEUE]


def add_tasks(
    app: Celery,
    registry: Registry,
    *,
    take: Mapping[str, Callable[["Delivery"], str | None]],
) -> None:
    """Register a carrier task per stage, the ``gristmill.enqueue`` door and ``gristmill.maintain``.

    ``take`` holds the functions that receive deliveries, under ``carrier``, ``door`` and ``maintain``. No task sends
    Celery events, because Flower shows jobs. The door acknowledges after its row is committed: until then the job
    exists only as this message.
    """
    for name in registry:
        app.task(name=name, send_events=False, bind=True)(_task(name, take["carrier"]))
    app.task(name=DOOR, send_events=False, acks_late=True, bind=True)(_task(DOOR, take["door"]))
    app.task(name=MAINTAIN, send_events=False, bind=True)(_task(MAINTAIN, take["maintain"]))


@dataclass(frozen=True, slots=True)
class Delivery:
    """The content of a message to one of the tasks, not validated yet.

    ``due_at`` is the message's eta.
    """

    task: str
    message_id: Any
    queue: str | None
    arguments: Sequence[Any]
    keywords: Mapping[str, Any]
    due_at: str | None = None


def _task(name: str, take: Callable[[Delivery], str | None]) -> Callable[..., str | None]:
    # `celery` is positional only, because a message may contain a keyword of any name.
    def task(celery: Any, /, *arguments: Any, **keywords: Any) -> str | None:
        about = celery.request.delivery_info or {}
        due_at = getattr(celery.request, DUE_HEADER, None)
        return take(Delivery(name, celery.request.id, about.get("routing_key"), arguments, keywords, due_at))

    return task
