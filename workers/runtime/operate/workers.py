"""What people ask of worker processes."""

from workers.runtime.store.workers import WorkerView, list_workers

__all__ = ["WorkerView", "list_workers"]
