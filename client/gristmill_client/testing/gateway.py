"""A gateway in memory, for the tests of services: the rules of the real one, and controls of the test."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import httpx2
from pydantic import BaseModel

from gristmill_client.errors import FieldError, NotPossible
from gristmill_client.http import AsyncClient, Client
from gristmill_client.models import Outcome
from gristmill_client.testing.answers import TENANT_SCOPES, Answer, Asked, Handling, Key
from gristmill_client.testing.callbacks import Callback, Callbacks
from gristmill_client.testing.changes import Changes
from gristmill_client.testing.event_routes import Connections
from gristmill_client.testing.faults import Faults
from gristmill_client.testing.file_routes import Files
from gristmill_client.testing.job_routes import result_of
from gristmill_client.testing.jobs import FIRST, RUNNING, Jobs, Stage, StoredJob, Work
from gristmill_client.testing.problems import MEDIA_TYPE, Problem
from gristmill_client.testing.routing import Rooms, find
from gristmill_client.testing.transport import GatewayTransport

BASE_URL = "http://gristmill.test"


class Gateway:
    """A gateway in memory. Register the stages that your service uses, then give its client to your code.

    No worker runs: a job stays ``pending`` until the test calls :meth:`complete`, :meth:`fail` or another control, or
    until the function of its stage does it. Use it from any thread.
    """

    def __init__(self) -> None:
        self._changes = Changes()
        self._jobs = Jobs(self._changes)
        self._rooms = Rooms(Files(), Callbacks(), Connections())
        self._jobs.on_end.append(self._rooms.callbacks.tell)
        self._faults = Faults()
        self._keys: dict[str, Key] = {}
        self.tenant = uuid4()
        self.api_key = self.make_key(tenant=self.tenant)

    def client(self, api_key: str | None = None, *, retry_seconds: float = 5.0) -> Client:
        """Return a client of this gateway, by default with the key of :attr:`tenant`."""
        return Client(BASE_URL, api_key or self.api_key, retry_seconds=retry_seconds, transport=self.transport())

    def async_client(self, api_key: str | None = None, *, retry_seconds: float = 5.0) -> AsyncClient:
        """Return a client for asyncio."""
        return AsyncClient(BASE_URL, api_key or self.api_key, retry_seconds=retry_seconds, transport=self.transport())

    def transport(self) -> GatewayTransport:
        """Return a transport for any client of httpx2."""
        return GatewayTransport(self._handle, self._changes)

    # ── what there is ────────────────────────────────────────────────────────────────────────────────────────────────

    def add_stage(
        self,
        name: str,
        *,
        payload: type[BaseModel] | None = None,
        work: Work | None = None,
        searchable: Iterable[str] = (),
    ) -> None:
        """Register a stage. ``payload`` is its model (unset: any object); ``searchable`` are the members for filters.

        ``work`` does each new job at once: it takes the payload and returns the result; if it raises, the job fails.
        """
        self._jobs.stages[name] = Stage(name, payload, work, tuple(searchable))

    def make_key(self, *, tenant: UUID | None = None, scopes: Iterable[str] = TENANT_SCOPES, name: str = "test") -> str:
        """Return a new API key. Without a tenant it is an operator's: give it the scope ``operate`` or ``admin``."""
        secret = f"gm_test_{uuid4().hex}"
        self._keys[secret] = Key(f"key:{name}", tenant, frozenset(scopes))
        return secret

    def revoke_key(self, api_key: str) -> None:
        """Let a key be valid no more; its streams end."""
        del self._keys[api_key]
        self.cut_streams()

    def make_project(self, name: str = "project", *, tenant: UUID | None = None) -> UUID:
        """Return the id of a new project, which files can be ingested into."""
        return self._rooms.files.add_project(name, tenant or self.tenant)

    def file_of(self, job_id: UUID) -> bytes:
        """Return the file that an ingestion was sent."""
        return self._rooms.files.by_job[job_id]

    @property
    def callbacks(self) -> list[Callback]:
        """The messages to ``callback_url`` so far. Nothing is sent: hand them to your own handler."""
        return list(self._rooms.callbacks.sent)

    def callback_secret(self, tenant: UUID | None = None) -> str:
        """Return the secret that signs the callbacks of a tenant."""
        return self._rooms.callbacks.secret_of(tenant or self.tenant)

    # ── what happens to jobs ─────────────────────────────────────────────────────────────────────────────────────────

    def start(self, job_id: UUID, *, progress: int = 0) -> None:
        """Let a pending job run; or tell the progress of a running one."""
        job = self._jobs.require(job_id, FIRST, RUNNING)
        if job.status == FIRST:
            self._jobs.move(job, RUNNING, action="claim")
        self._jobs.set_progress(job, progress)

    def complete(self, job_id: UUID, result: Mapping[str, Any] | BaseModel | None = None) -> None:
        """Let a pending or running job end well, with what it has found."""
        self._jobs.move(self._running(job_id), Outcome.COMPLETED, action="settle", result=result_of(result))

    def fail(self, job_id: UUID, error: str = "it failed") -> None:
        """Let a pending or running job fail."""
        self._jobs.move(self._running(job_id), Outcome.FAILED, action="settle", error=error)

    def ask(self, job_id: UUID, state: str, answers: Mapping[str, str]) -> None:
        """Let a job wait for a decision: ``answers`` are the decisions with the states that they lead to."""
        job = self._running(job_id)
        with self._jobs.lock:
            self._jobs.move(job, state, action="settle")
            job.answers, job.may_wait = dict(answers), True

    def payload_of(self, job_id: UUID) -> dict[str, Any]:
        """Return the payload of a job, as the stage's model read it."""
        found = self._jobs.by_id.get(job_id)
        if found is None:
            raise NotPossible(f"job {job_id} does not exist in this test gateway")
        return dict(found.payload)

    def _running(self, job_id: UUID) -> StoredJob:
        job = self._jobs.require(job_id, FIRST, RUNNING)
        if job.status == FIRST:
            self._jobs.move(job, RUNNING, action="claim")
        return job

    # ── what goes wrong ──────────────────────────────────────────────────────────────────────────────────────────────

    def refuse_next(self, status: int = 503, *, count: int = 1, retry_after: float | None = None) -> None:
        """Answer the next requests with this status, and do nothing."""
        self._faults.refuse(status, count, retry_after)

    def lose_next(self, *, count: int = 1) -> None:
        """Do the next requests, but break their connections before the answer."""
        self._faults.lose(count)

    def be_away(self, *, count: int = 1) -> None:
        """Accept no connection for the next requests."""
        self._faults.be_away(count)

    def cut_streams(self) -> None:
        """End all open streams, as a gateway does that stops. Clients come back."""
        self._rooms.connections.cut()
        self._changes.note()

    # ── requests ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _handle(self, request: httpx2.Request) -> Handling:
        request_id = request.headers.get("x-request-id") or uuid4().hex
        try:
            answer = yield from self._faults.around(request, self._answered(request))
        except Problem as problem:
            document = problem.document(request, request_id)
            body = httpx2.Response(problem.status, json=document).content
            answer = Answer(problem.status, body, {"content-type": MEDIA_TYPE, **problem.headers})
        return replace(answer, headers={**answer.headers, "X-Request-Id": request_id})

    def _answered(self, request: httpx2.Request) -> Handling:
        route, values = find(request.method, request.url.path)
        key = self._caller(request)
        if not _is_allowed(key, route.scope):
            raise _missing_scope(route.scope)
        found = route.handle(Asked(request, key, self._jobs, self._changes), self._rooms, *values)
        return found if isinstance(found, Answer) else (yield from found)

    def _caller(self, request: httpx2.Request) -> Key:
        key = self._keys.get(request.headers.get("authorization", "").removeprefix("Bearer "))
        if key is None:
            detail = "an API key is required: send it as `Authorization: Bearer gm_…`"
            raise Problem("unauthenticated", detail, headers={"WWW-Authenticate": "Bearer"})
        return key


def _is_allowed(key: Key, scope: str) -> bool:
    return bool({scope, scope.partition(":")[0], "admin"} & key.scopes)


def _missing_scope(scope: str) -> Problem:
    remedy = "ask an operator for a key with this scope (`gristmill keys create`)"
    errors = [FieldError("scope", f"must include {scope}", None, remedy)]
    return Problem("forbidden", f"this needs the scope {scope!r}", errors=errors)
