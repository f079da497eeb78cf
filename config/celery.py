"""Celery's settings. Celery only carries messages. Comments name the loss or the stall that a setting prevents."""

from typing import Any

# The queue of the tasks that are not stages: `gristmill.enqueue` and `gristmill.maintain`.
SYSTEM_QUEUE = "gristmill"


def celery_settings(broker_url: str) -> dict[str, Any]:
    """Return Celery's configuration for ``broker_url``."""
    return {
        "broker_url": broker_url,
        "result_backend": None,
        # Results are in Postgres. A result that Celery cannot store would fail a finished task.
        "task_ignore_result": True,
        "task_store_errors_even_if_ignored": False,
        "accept_content": ["json"],
        "task_serializer": "json",
        "event_serializer": "json",
        "task_default_queue": SYSTEM_QUEUE,
        "task_create_missing_queues": True,
        # Early ack: the dispatcher sends lost jobs again. With late acks a message would wait for the visibility
        # timeout and be delivered again and again.
        "task_acks_late": False,
        "worker_prefetch_multiplier": 1,
        # True would stall the consumer of the threads pool on Redis. Prefetch 1 is enough.
        "worker_disable_prefetch": False,
        "worker_pool": "threads",
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        # workers/transport/events.py publishes events of jobs. Carrier tasks have no events.
        "worker_send_task_events": False,
        "task_send_sent_event": False,
        "worker_enable_remote_control": True,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "broker_connection_retry": True,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_channel_error_retry": True,
        # The default blocks without end if all connections of the pool are in use.
        "broker_pool_acquire_timeout": 10,
        "broker_transport_options": {
            "socket_timeout": 10,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "health_check_interval": 10,
            # No `retry_on_timeout`: with it redis-py replaces a broken connection silently, and Celery's loop keeps
            # waiting for the old one. Without it Celery gets the error and connects again.
            # The visibility timeout is for messages that a dead worker took and did not acknowledge: a service's
            # `gristmill.enqueue` before its row is committed. The default redelivers after an hour. A second delivery
            # is harmless: its idempotency key makes it the same job.
            "visibility_timeout": 120,
        },
        "enable_utc": True,
        "timezone": "UTC",
    }
