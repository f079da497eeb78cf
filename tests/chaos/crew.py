"""The processes under test: so many of each kind, replaced when they end, as a supervisor would.

Only the main thread may start processes (they end with it), so whoever waits there has the crew mended meanwhile.
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

# An order in which a restart of everything is soonest useful.
KINDS = ("worker", "dispatcher", "beat")


@dataclass(slots=True)
class Post:
    """One place to be filled: the options of whoever holds it, what one holder alone is told, and who that is."""

    kind: str
    options: Mapping[str, Any]
    role: Role
    worker_id: UUID | None = None


@dataclass(slots=True)
class Crew:
    """Every post of the system. ``unasked`` are deaths that nobody had reason to expect."""

    system: System
    posts: list[Post] = field(default_factory=list)
    unasked: list[str] = field(default_factory=list)
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
        """Fill a post whose holder has ended; ``environment`` and ``options`` are for this new holder only."""
        post.role = self.system.start(post.kind, environment=environment, **{**post.options, **options})
        post.worker_id = None
        return post.role

    def mend(self) -> None:
        """Fill every post whose holder has ended."""
        for post in self.posts:
            if post.role.alive:
                continue
            if not post.role.ended:
                self._judge(post)
            self.replace(post)

    def _judge(self, post: Post) -> None:
        """Take one death for part of the fault under way, or write it down as unasked."""
        if self._forgiven[post.kind] > 0:
            self._forgiven[post.kind] -= 1
            return
        how = describe_exit(post.role.process.returncode)
        self.unasked.append(f"{post.kind} {post.role.pid} {how}, unasked ({post.role.log.name})")

    @contextmanager
    def may_die(self, kind: str, *, at_most: int) -> Iterator[None]:
        """Take so many deaths of this kind within the block for part of the fault; any other is unasked."""
        self._forgiven[kind] += at_most
        try:
            yield
            self.mend()
        finally:
            del self._forgiven[kind]

    @contextmanager
    def one_more(self, kind: str) -> Iterator[Post]:
        """Have one more post of a kind while the block lasts; its last holder is then asked to stop, for good."""
        self.hire(kind, 1, **self.of(kind)[0].options)
        extra = self.posts[-1]
        try:
            yield extra
        finally:
            self.posts.remove(extra)
            extra.role.terminate()

    def worker_ids(self) -> dict[UUID, Role]:
        """Return the workers that have shown themselves, by the id under which they hold leases."""
        for post in self.of("worker"):
            post.worker_id = post.worker_id or self.system.worker_id(post.role)
        return {post.worker_id: post.role for post in self.of("worker") if post.worker_id}

    def ready(self) -> bool:
        """Tell whether every post is filled by somebody who has begun to work; a dispatcher has, if one leads."""
        if len(self.worker_ids()) < len(self.of("worker")):
            return False
        if not all(post.role.has_logged("beat_ready") for post in self.of("beat")):
            return False
        return self.system.leader_pid() in {role.pid for role in self.roles("dispatcher")}

    def lost_runs(self) -> list[LostRun]:
        """Return what all workers there ever were said about runs that others had moved on."""
        workers = [role for role in self.system.roles if role.kind == "worker"]
        return [run for role in workers for run in lost_runs(role.lines(), said_by=role.log.name)]

    def said(self, event: str) -> int:
        """Count the log lines of all workers there ever were that name ``event``."""
        return sum(event in line for role in self.system.roles if role.kind == "worker" for line in role.lines())
