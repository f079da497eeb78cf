"""What this process measures about itself, in the format of Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

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
