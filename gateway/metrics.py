"""What this process measures about itself, in the format of Prometheus."""

from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector

from gateway.limits import Capacity
from workers.runtime.database import Database, PoolUse

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The metrics of one app."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "gristmill_http_requests",
            "Answered requests; 499: the client went away.",
            ("method", "route", "status"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "gristmill_http_request_seconds",
            "From the first byte of a request to the last one of its answer.",
            ("method", "route"),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._of_request: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self.running = Gauge(
            "gristmill_http_requests_running", "Requests without an answer yet.", registry=self.registry
        )
        self.streams = Gauge("gristmill_http_streams", "Clients that follow a stream.", registry=self.registry)
        self._queue = Gauge("gristmill_http_requests_queued", "Requests that wait for a place.", registry=self.registry)
        self._connections = Gauge(
            "gristmill_database_connections",
            "Connections to Postgres; state: open, or in_use among them.",
            ("pool", "state"),
            registry=self.registry,
        )
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def watch(self, database: Database, capacity: Capacity) -> None:
        """Read the use of these pools and of this queue whenever the metrics are asked for."""
        self._queue.set_function(lambda: capacity.queue_length)
        for pool in database.pool_use():
            for number, state in enumerate(PoolUse._fields):
                value = partial(_read_use, database, pool, number)
                self._connections.labels(pool, state).set_function(value)

    def note(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count an answered request."""
        key = method, route, status
        found = self._of_request.get(key)
        if found is None:  # a look-up of the labels costs more than the count
            found = self._of_request[key] = (
                self._requests.labels(method, route, str(status)),
                self._seconds.labels(method, route),
            )
        count, histogram = found
        count.inc()
        histogram.observe(seconds)


def _read_use(database: Database, pool: str, number: int) -> float:
    return database.pool_use()[pool][number]
