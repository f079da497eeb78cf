"""Make the Celery application: its settings handed in, its tasks made from the registry."""

from collections.abc import Callable, Mapping
from typing import Any

from celery import Celery, signals
from kombu import Exchange, Queue

from config.celery import SYSTEM_QUEUE, celery_settings
from workers.runtime.failpoints import failpoint
from workers.runtime.registry import Registry
from workers.transport.envelopes import use_careful_transport


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
    deliver: Callable[[str, object], None],
    enqueue: Callable[..., str | None],
    maintain: Callable[[str], None],
) -> None:
    """Register a carrier task per stage, the ``gristmill.enqueue`` door and ``gristmill.maintain``.

    None of them sends Celery events: what Flower shows are jobs. The door acknowledges late, after its row is
    committed; its message is all there is of the job until then.
    """
    for name in registry:
        app.task(name=name, send_events=False)(_carrier(name, deliver))
    app.task(name="gristmill.enqueue", send_events=False, acks_late=True, bind=True)(_door(enqueue))
    app.task(name="gristmill.maintain", send_events=False)(maintain)


def _carrier(name: str, deliver: Callable[[str, object], None]) -> Callable[..., None]:
    def carrier(*arguments: object, **named: object) -> None:
        failpoint("carrier.before")
        # Whatever else a message brings is no batch, and is refused as such.
        deliver(name, arguments[0] if len(arguments) == 1 and not named else None)
        failpoint("carrier.after")

    return carrier


def _door(enqueue: Callable[..., str | None]) -> Callable[..., str | None]:
    def door(  # noqa: PLR0917 - services send these by position
        task: Any,
        stage: str,
        payload: Mapping[str, Any],
        idempotency_key: str | None = None,
        priority: int = 5,
        due_at: str | None = None,
    ) -> str | None:
        # Without a key of its own, the message's id makes a redelivered message the same job.
        key = idempotency_key or f"celery:{task.request.id}"
        return enqueue(stage, payload, idempotency_key=key, priority=priority, due_at=due_at)

    return door
