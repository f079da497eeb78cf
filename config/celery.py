"""Celery's settings: messages only. Each line that is not obvious names the loss or the stall it prevents."""

from typing import Any

# The queue of tasks that are not stages: the `gristmill.enqueue` door and beat's maintenance.
SYSTEM_QUEUE = "gristmill"


def celery_settings(broker_url: str) -> dict[str, Any]:
    """Return Celery's configuration for ``broker_url``."""
    return {
        "broker_url": broker_url,
        "result_backend": None,
        # Results live in Postgres; a result that cannot be stored would fail a finished task.
        "task_ignore_result": True,
        "task_store_errors_even_if_ignored": False,
        "accept_content": ["json"],
        "task_serializer": "json",
        "event_serializer": "json",
        "task_default_queue": SYSTEM_QUEUE,
        "task_create_missing_queues": True,
        # Early ack: Postgres redelivers. Late acks would wait out the visibility timeout and loop for ever.
        "task_acks_late": False,
        "worker_prefetch_multiplier": 1,
        # Stalls the consumer of the threads pool on Redis; prefetch 1 is what is wanted.
        "worker_disable_prefetch": False,
        "worker_pool": "threads",
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        # Jobs have events of their own (workers/transport/events.py); carrier tasks stay out of the stream.
        "worker_send_task_events": False,
        "task_send_sent_event": False,
        "worker_enable_remote_control": True,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "broker_connection_retry": True,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_channel_error_retry": True,
        # The default blocks for ever when every pooled connection is taken.
        "broker_pool_acquire_timeout": 10,
        "broker_transport_options": {
            "socket_timeout": 10,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "health_check_interval": 10,
            # No `retry_on_timeout`: it has redis-py replace a broken connection unseen, while Celery's loop goes on
            # waiting for the old one. A connection that breaks must be heard of; Celery then connects anew.
            # What a dead worker had taken and not acknowledged: a service's `gristmill.enqueue` whose row is not there
            # yet. The default gives it back after an hour. Twice is no harm: its key makes it one job.
            "visibility_timeout": 120,
        },
        "enable_utc": True,
        "timezone": "UTC",
    }
