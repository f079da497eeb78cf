"""Make the calls of one provider: not while it is away, in their turn, within the run's time, each one accounted for.

A call goes: breaker (``pauses.py``), admission, call, settle. A 429 quiets all processes, and the call waits for
another turn inside its run. What is not sent is given back, what was sent is settled or stays counted.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from time import perf_counter
from types import MappingProxyType
from typing import Any, Generic, NamedTuple, NoReturn, Protocol, TypeVar

import structlog

from workers.llm.calls import Admission, Call, Kind, NotAdmittedError, Usage, current_caller
from workers.llm.fallback import OUT_OF_TIME
from workers.llm.header_limits import HeaderLimits
from workers.llm.kept import AnswerToKeep, answer_to_keep
from workers.llm.pace import MAX_MODELS, Pace
from workers.llm.pauses import Gate
from workers.llm.ports import NO_POSITION, Control, Lane, LaneQuestion, current_position
from workers.llm.usage import may_be_charged, usage_in, usage_of
from workers.runtime.handler.context import current_run, seconds_left, waiting_for_turn
from workers.runtime.handler.errors import RateLimited, Retryable, Unavailable, describe
from workers.runtime.measuring import MEASUREMENTS

log = structlog.get_logger(__name__)

T = TypeVar("T")

# Whoever asks outside of runs, as a command does, waits no longer for a turn.
OUTSIDE_SECONDS = 30.0
# Where another step can answer, a call waits no longer than this for a turn of the one before.
BEFORE_FALLBACK_SECONDS = 10.0
# The time of a run that has too little of it left: another run has it whole.
NEXT_RUN_DELAY = timedelta(seconds=1)
# A provider that refuses again and again is left alone for twice as long each time.
MAX_COOLDOWN = timedelta(minutes=2)
MAX_RUNS = 4_096


class Body(Protocol):
    """What an answer's body is read from."""

    @property
    def text(self) -> str: ...
    @property
    def headers(self) -> Mapping[str, str]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request: ``digest`` tells it from others, the tokens are an estimate and the most that is asked for.

    ``body`` is what is posted, as JSON; a request without it always takes the normal lane.
    """

    kind: Kind
    model: str
    digest: str
    input_tokens: int
    output_tokens: int
    body: str | None = None


@dataclass(frozen=True, slots=True)
class _Refused:
    """How often in a row a model has refused calls, and until when nobody calls it; in monotonic seconds."""

    times: int
    at: float
    until: float


class _LaneAnswer(NamedTuple):
    """An answer from the batch lane, read as one that has just come."""

    text: str
    headers: Mapping[str, str] = MappingProxyType({})


class Answered(NamedTuple, Generic[T]):
    """What was read from an answer's body, its usage object, and the model that it names."""

    value: T
    usage: Mapping[str, Any] | None
    served_model: str | None


class ProviderCalls:
    """Makes the calls of one provider.

    ``name`` is its name in ``llm.providers``, ``server`` its address as it may be shown, ``key`` how pauses of its key
    are called. Without a ``control`` nothing is admitted or accounted for: a 429 is raised as it comes.
    """

    def __init__(
        self,
        *,
        name: str,
        server: str,
        key: str | None,
        gate: Gate,
        timeout: float,
        concurrency: int,
        embedding_concurrency: int,
        control: Control | None = None,
    ) -> None:
        self._name = name
        self._server = server
        self._key = key
        self._gate = gate
        self._timeout = timeout
        self._within = timedelta(seconds=timeout)
        self._control = control
        self._pace = Pace(timeout)
        # Each call's time begins when it is its turn: a queue that it waits in here costs it nothing, one at the
        # provider would time out most of what is in it.
        self._room: Mapping[Kind, asyncio.Semaphore] = {
            "chat": asyncio.Semaphore(concurrency),
            "embeddings": asyncio.Semaphore(embedding_concurrency),
        }
        self._refused: dict[str, _Refused] = {}
        learn = control.learn if control is not None else None
        self._header_limits = None if learn is None else HeaderLimits(name, learn)
        self._first_left: OrderedDict[tuple[object, int], float] = OrderedDict()

    async def check(self, model: str) -> None:
        """Raise Unavailable, or NotAdmittedError for a key without quota, while nobody is to ask for ``model``."""
        with self._named():
            await self._gate.check(self._server, model, key=self._key)

    async def failed(self, model: str, error: Unavailable, *, request: str) -> Unavailable:
        """Note that a request beside the calls failed, as for the list of models; return the error for its job."""
        return await self._gate.failed(self._server, model, error, request=request)

    async def make(
        self, request: Request, send: Callable[[], Awaitable[Body]], read: Callable[[Any], Answered[T]]
    ) -> T:
        """Send a request in its turn and return what ``read`` makes of the answer; raise the kernel's errors.

        ``send`` raises the kernel's errors too, with the client's own as their cause.
        """
        send = partial(self._measured, request.kind, send)
        if self._control is None:
            async with self._room[request.kind], self._asking(request):
                return read(await send()).value
        if (text := await self._from_lane(request, self._control.lane)) is not None:
            try:
                return read(_LaneAnswer(text)).value
            except Retryable as error:  # an answer that says nothing: the normal lane asks
                log.warning("batch_answer_of_no_use", provider=self._name, error=describe(error))
        until = self._until(request.model)
        while True:
            await self.check(request.model)
            async with self._reserved(request, self._control, until) as call:
                began = time.monotonic()
                try:
                    return await self._made(call, request, self._control, send, read)
                except NotAdmittedError:
                    raise
                except RateLimited as error:
                    await self._cool_down(call, error, self._control.admission, began=began)

    async def _measured(self, kind: Kind, send: Callable[[], Awaitable[Body]]) -> Body:
        """Send, and measure how long the provider took and whether it answered."""
        began, outcome = perf_counter(), "failed"
        try:
            body = await send()
            outcome = "answered"
        except RateLimited:
            outcome = "rate_limited"
            raise
        except Unavailable:
            outcome = "unavailable"
            raise
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        finally:
            series = MEASUREMENTS.histogram("provider_call_seconds", provider=self._name, kind=kind, outcome=outcome)
            series.observe(perf_counter() - began)
        return body

    async def _from_lane(self, request: Request, lane: Lane | None) -> str | None:
        """Return an answer from the batch lane, None if the question is to be asked now; raise Deferred if it waits."""
        if lane is None or request.body is None or not await lane.has(current_caller()):
            return None
        position = current_position.get(NO_POSITION)
        return await lane.answer(
            LaneQuestion(
                provider=self._name,
                model=request.model,
                body=request.body,
                input_tokens=request.input_tokens,
                output_tokens=request.output_tokens,
                route=position.route,
                step=position.step,
            )
        )

    # ── one call ─────────────────────────────────────────────────────────────────────────────────────────────────────

    @asynccontextmanager
    async def _reserved(self, request: Request, control: Control, until: float) -> AsyncIterator[Call]:
        """Yield a call that is reserved and has its room, to be made at once."""
        room = self._room[request.kind]
        # What is reserved counts from now on, and must be sent now.
        with waiting_for_turn(f"waits for its turn at provider {self._name}"):
            if room.locked():
                async with self._in_time(until), room:
                    pass
            call = self._call(request)
            try:
                await control.turns.admitted(call, until=until)
            except NotAdmittedError as error:
                if error.batch_may and control.lane is not None and await control.lane.enter(call.caller):
                    await self._from_lane(request, control.lane)  # raises: the budget leaves it to the batch lane
                raise
        try:
            if room.locked():
                async with self._in_time(until):
                    await room.acquire()
            else:
                await room.acquire()  # at once
        except BaseException:
            await control.admission.release(call)
            raise
        try:
            yield call
        finally:
            room.release()

    async def _made(
        self,
        call: Call,
        request: Request,
        control: Control,
        send: Callable[[], Awaitable[Body]],
        read: Callable[[Any], Answered[T]],
    ) -> T:
        is_sent, body, started = False, None, perf_counter()
        try:
            async with self._asking(request):
                is_sent, started = True, perf_counter()
                current_position.get(NO_POSITION).attempts.sent += 1
                body = await send()
                answered = read(body)
        except BaseException as error:
            if is_sent:
                await self._account_for(call, error, body, seconds=perf_counter() - started, control=control)
            else:
                await control.admission.release(call)
            raise
        seconds = perf_counter() - started
        self._pace.note(call.model, seconds)
        self._refused.pop(call.model, None)
        if self._header_limits is not None:
            self._header_limits.note(call.model, body.headers)
        usage = usage_of(answered.usage, served_model=answered.served_model, seconds=seconds)
        await self._settle(call, usage, control.admission, keep=answer_to_keep(call, answered.value, usage))
        return answered.value

    async def _account_for(
        self, call: Call, error: BaseException, body: Body | None, *, seconds: float, control: Control
    ) -> None:
        """Record a call without a usable answer: what it used, or that it may be charged, or that it is not."""
        usage = None if body is None else usage_in(body.text, seconds=seconds)
        if usage is not None:
            await self._settle(call, usage, control.admission)
            return
        reason = "cancelled" if isinstance(error, asyncio.CancelledError) else describe(error)
        await self._fail(call, reason, control.admission, charged=may_be_charged(error, answered=body is not None))

    async def _settle(
        self, call: Call, usage: Usage, admission: Admission, *, keep: AnswerToKeep | None = None
    ) -> None:
        try:
            await admission.settle(call, usage, keep=keep)
        except Exception as error:  # noqa: BLE001 - the answer is paid for: it is the job's, and its estimate counts
            log.warning("call_not_settled", call=str(call.id), error=describe(error))

    async def _fail(self, call: Call, reason: str, admission: Admission, *, charged: bool) -> None:
        try:
            await admission.fail(call, reason, charged=charged)
        except Exception as error:  # noqa: BLE001 - its reservation ends with the run
            log.warning("call_not_settled", call=str(call.id), error=describe(error))

    async def _cool_down(self, call: Call, error: RateLimited, admission: Admission, *, began: float) -> None:
        """Quiet all processes after a 429; one that comes again and again doubles the wait.

        Of calls that were under way together, only the first 429 counts: the others are not repetitions.
        """
        if len(self._refused) > MAX_MODELS:
            self._refused.clear()
        before, now = self._refused.get(call.model), time.monotonic()
        is_again = before is None or began >= before.at
        times = 1 if before is None else before.times + is_again
        delay = max(error.delay, min(error.delay * 2 ** min(times - 1, 16), MAX_COOLDOWN))
        until = now + delay.total_seconds()
        if before is not None and not is_again:
            if until <= before.until:
                return  # nobody calls it for as long already
            self._refused[call.model] = replace(before, until=until)
        else:
            self._refused[call.model] = _Refused(times, at=now, until=until)
        await admission.cool_down(call.provider, call.model, delay=delay, reason=describe(error))

    def _call(self, request: Request) -> Call:
        position = current_position.get(NO_POSITION)
        return Call(
            caller=current_caller(),
            kind=request.kind,
            provider=self._name,
            model=request.model,
            route=position.route,
            step=position.step,
            input_tokens=request.input_tokens,
            output_tokens=request.output_tokens,
        )

    # ── whether it may be asked ──────────────────────────────────────────────────────────────────────────────────────

    @asynccontextmanager
    async def _asking(self, request: Request) -> AsyncIterator[None]:
        with self._named():
            async with self._gate.asking(
                self._server, request.model, request=request.digest, within=self._within, key=self._key
            ):
                yield

    def _named(self) -> "_Named":
        return _Named(self._name, self._key)

    # ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _until(self, model: str) -> float:
        """Return until when a call may wait for its turn, in monotonic time; raise NotAdmittedError if there is none.

        A run must have the time left that a call takes, or half of its time, where that is less.
        """
        left, position = seconds_left(), current_position.get(NO_POSITION)
        if left is None:
            waits = OUTSIDE_SECONDS
        else:
            waits = left - min(self._pace.needed(model), self._whole(left) / 2)
            if waits <= 0:
                _out_of_time(left)
        if not position.is_last:
            waits = min(waits, BEFORE_FALLBACK_SECONDS)
        return time.monotonic() + waits

    def _whole(self, left: float) -> float:
        """Return the most time that the current run had left at any call here."""
        run = current_run.get()
        if run is None:
            return left
        key = (run.job_id, run.version)
        whole = self._first_left[key] = max(left, self._first_left.pop(key, 0.0))
        if len(self._first_left) > MAX_RUNS:
            self._first_left.popitem(last=False)
        return whole

    @asynccontextmanager
    async def _in_time(self, until: float) -> AsyncIterator[None]:
        """Enclose a wait for room; raise NotAdmittedError if it ends too late to call."""
        try:
            async with asyncio.timeout(max(until - time.monotonic(), 0.0)):
                yield
        except TimeoutError:
            raise NotAdmittedError(
                f"provider {self._name} answers as many calls of this process as may be under way",
                delay=NEXT_RUN_DELAY,
                limit=f"concurrency of provider {self._name} in one process",
            ) from None


class _Named:
    """Turns the pause of a key into a wait that needs no patience: it ends when somebody pays."""

    def __init__(self, name: str, key: str | None) -> None:
        self._provider = name
        self._key = key

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, Unavailable) and self._key is not None and error.provider == self._key:
            since = f" since {error.since:%Y-%m-%d %H:%M} UTC" if error.since else ""
            raise NotAdmittedError(
                f"quota of provider {self._provider} is used up{since} ({error.reason}); "
                f"after it is paid: `gristmill llm resume {self._provider}`",
                delay=error.delay,
                limit=f"quota of provider {self._provider}",
            ) from error


def _out_of_time(left: float) -> NoReturn:
    raise NotAdmittedError(
        f"no call is begun with {max(left, 0.0):.1f} s of its run left", delay=NEXT_RUN_DELAY, limit=OUT_OF_TIME
    )
