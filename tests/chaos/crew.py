"""The processes under test: a fixed number of each kind. A process that ends is replaced, as by a supervisor.

Only the main thread may start processes, because they end with it. So each wait there calls ``refill``.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from local.processes import describe_exit
from tests.chaos.evidence import LostRun, lost_runs
from tests.e2e.system import Role, System

# The order of a restart, so that work begins as early as possible.
KINDS = ("worker", "dispatcher", "beat", "gateway")


@dataclass(slots=True)
class Post:
    """One place for a process: its options, the present process, and its worker id if it is a worker."""

    kind: str
    options: Mapping[str, Any]
    role: Role
    worker_id: UUID | None = None


@dataclass(slots=True)
class Crew:
    """Every post of the system. ``unexpected``: deaths of processes that no fault explains."""

    system: System
    posts: list[Post] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    _forgiven: Counter[str] = field(default_factory=Counter)

    def hire(self, kind: str, count: int, **options: Any) -> None:
        """Add posts and fill them."""
        for _ in range(count):
            self.posts.append(Post(kind, options, self.system.start(kind, **options)))

    def of(self, kind: str) -> list[Post]:
        return [post for post in self.posts if post.kind == kind]

    def roles(self, kind: str) -> list[Role]:
        """Return the living roles of one kind."""
        return [post.role for post in self.of(kind) if post.role.alive]

    def replace(self, post: Post, *, environment: Mapping[str, str] | None = None, **options: Any) -> Role:
        """Start a new process for a post after the old one has ended.

        ``environment`` and ``options`` are for this process only.
        """
        post.role = self.system.start(post.kind, environment=environment, **{**post.options, **options})
        post.worker_id = None
        return post.role

    def refill(self) -> None:
        """Start a new process for every post without a living process."""
        for post in self.posts:
            if post.role.alive:
                continue
            if not post.role.ended:
                self._judge(post)
            self.replace(post)

    def _judge(self, post: Post) -> None:
        """Count one death as a part of the present fault, or record it as unexpected."""
        if self._forgiven[post.kind] > 0:
            self._forgiven[post.kind] -= 1
            return
        how = describe_exit(post.role.process.returncode)
        self.unexpected.append(f"{post.kind} {post.role.pid} {how}, unexpectedly ({post.role.log.name})")

    @contextmanager
    def may_die(self, kind: str, *, at_most: int) -> Iterator[None]:
        """Expect up to ``at_most`` deaths of this kind during the block; further deaths are unexpected."""
        self._forgiven[kind] += at_most
        try:
            yield
            self.refill()
        finally:
            del self._forgiven[kind]

    @contextmanager
    def one_more(self, kind: str) -> Iterator[Post]:
        """Add one more post of a kind during the block; afterwards its process is stopped and not replaced."""
        self.hire(kind, 1, **self.of(kind)[0].options)
        extra = self.posts[-1]
        try:
            yield extra
        finally:
            self.posts.remove(extra)
            extra.role.terminate()

    def worker_ids(self) -> dict[UUID, Role]:
        """Return the workers that have sent a heartbeat, by the id of their lease."""
        for post in self.of("worker"):
            post.worker_id = post.worker_id or self.system.worker_id(post.role)
        return {post.worker_id: post.role for post in self.of("worker") if post.worker_id}

    def ready(self) -> bool:
        """Return whether every worker and beat has begun to work, and one of the dispatchers leads."""
        if len(self.worker_ids()) < len(self.of("worker")):
            return False
        if not all(post.role.has_logged("beat_ready") for post in self.of("beat")):
            return False
        if not all(post.role.has_logged("gateway_listens") for post in self.of("gateway")):
            return False
        return self.system.leader_pid() in {role.pid for role in self.roles("dispatcher")}

    def lost_runs(self) -> list[LostRun]:
        """Return all runs that the present and past workers logged as lost."""
        workers = [role for role in self.system.roles if role.kind == "worker"]
        return [run for role in workers for run in lost_runs(role.lines(), said_by=role.log.name)]

    def said(self, event: str) -> int:
        """Count the log lines of all present and past workers that name ``event``."""
        return sum(event in line for role in self.system.roles if role.kind == "worker" for line in role.lines())
