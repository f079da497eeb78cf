"""The use-case of operators for worker processes: list them."""

from workers.runtime.store.workers import WorkerView, list_workers

__all__ = ["WorkerView", "list_workers"]
