"""Any OpenAI-compatible server behind the LanguageModel protocol: OpenAI, OpenRouter, LM Studio, llama.cpp, vLLM."""

import asyncio
import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from time import perf_counter
from typing import Any, TypeVar

import httpx2
import openai
from pydantic import BaseModel

from workers.llm import dialogue, names, structured, vectors
from workers.llm.abilities import Abilities, Sent
from workers.llm.bodies import ACCEPTED, ANSWER_LIMIT, VECTOR_LIMIT, answer_limit
from workers.llm.bounds import bound_of
from workers.llm.calls import Kind
from workers.llm.dialogue import Reply
from workers.llm.errors import classify
from workers.llm.model_list import ModelList
from workers.llm.pauses import Gate
from workers.llm.pool import ManyPools
from workers.llm.ports import NO_POSITION, current_position
from workers.llm.provider_calls import Answered, ProviderCalls, Request
from workers.llm.usage import estimated
from workers.llm.wire import Completion, read
from workers.runtime.failpoints import failpoint
from workers.runtime.handler.context import current_run
from workers.runtime.handler.errors import Permanent, Unavailable
from workers.runtime.handler.ports import Answer, EmbeddingLimits, Embeddings, Message, OfflineRule, Purpose
from workers.runtime.tracing import is_tracing, span

T = TypeVar("T", bound=BaseModel)

# What an answer may have where nothing bounds it.
DEFAULT_OUTPUT = 2_000


class CompatibleModel:
    """A provider that speaks OpenAI's chat completions and embeddings.

    Its own retries are off (the kernel retries) and every wait is bounded. The strongest form of structured answer
    that the server accepts is found at the first call and remembered per model.

    ``calls`` makes its calls, within their limits. Without it nothing but ``gate`` keeps them back.

    To make one takes half a second of CPU, of whatever thread makes it; it lives on the event loop that first asks.
    """

    def __init__(
        self,
        *,
        api_key: str,
        base_url: str,
        model: str | None,
        embedding_model: str | None,
        embedding_limits: EmbeddingLimits,
        connect_timeout: float,
        timeout: float,
        max_connections: int,
        concurrency: int,
        gate: Gate | None = None,
        calls: ProviderCalls | None = None,
    ) -> None:
        self._base_url = base_url
        self._default = model
        self._embedding_model = embedding_model
        self._embedding_limits = embedding_limits
        self._timeout = timeout
        self._server = names.public_url(base_url)
        self._abilities: dict[str, Abilities] = {}
        waits = httpx2.Timeout(timeout, connect=connect_timeout)
        transport = ManyPools(base_url, max_connections=max_connections)
        self._client = openai.AsyncOpenAI(
            api_key=api_key,
            base_url=base_url,
            max_retries=0,
            timeout=waits,
            http_client=httpx2.AsyncClient(transport=transport, timeout=waits, headers={"accept-encoding": ACCEPTED}),
        )
        self._calls = calls or ProviderCalls(
            name=self._server,
            server=self._server,
            key=None,
            gate=gate or Gate(),
            timeout=timeout,
            concurrency=concurrency,
            embedding_concurrency=embedding_limits.requests,
        )
        self._models = ModelList(self._client, timeout=timeout)

    @property
    def embedding_limits(self) -> EmbeddingLimits:
        return self._embedding_limits

    async def resolve(self, model: str) -> str:
        """Return ``<server>|<model>`` for the model that will be asked; raise Permanent if the server has none such.

        A server that lists no models is taken to serve any.
        """
        asked = self._asked(model)
        await self._calls.check(asked)
        if names.is_openai(self._base_url):
            names.require_openai(asked)
        elif known := await self._known_models(asked):
            names.require_served(asked, known, server=self._server)
        return f"{self._server}|{asked}"

    async def _known_models(self, asked: str) -> Collection[str]:
        try:
            return await self._models.known()
        except Unavailable as error:
            raise await self._calls.failed(asked, error, request="list of models") from error

    async def parse(
        self,
        messages: Sequence[Message],
        *,
        into: type[T],
        model: str,
        parameters: Mapping[str, Any] | None = None,
        offline: OfflineRule | None = None,  # noqa: ARG002 - a configured provider is never replaced by a rule
        max_tokens: int | None = None,
        share_for: timedelta | None = None,  # noqa: ARG002 - sharing is above it
        context_tokens: int | None = None,
    ) -> Answer[T]:
        """Ask, again if the answer is cut off or invalid, and return it as ``into``; see ``dialogue.answer``.

        ``parameters`` are members of the request's body. ``max_tokens`` is the most that a valid answer needs; without
        it, the form tells. ``context_tokens`` is how many tokens question and answer may have together. Tokens are
        those of all calls.
        """
        started = perf_counter()
        asked = self._asked(model)
        bound, context = max_tokens or bound_of(into), self._context(context_tokens, asked)
        ask = partial(self._complete, _Question(into, asked, parameters or {}, bound, context))
        value, calls = await dialogue.answer(messages, into, ask=ask, model=asked, bound=bound)
        return Answer(
            value=value,
            raw=calls[-1].raw,
            model=calls[-1].model or asked,
            prompt_tokens=_total(call.prompt_tokens for call in calls),
            completion_tokens=_total(call.completion_tokens for call in calls),
            seconds=perf_counter() - started,
        )

    async def embedding_model(self) -> str:
        """Return the model that is asked for vectors; raise Permanent where none is set, OpenAI's apart."""
        if self._embedding_model:
            return self._embedding_model
        if names.is_openai(self._base_url):
            return names.OPENAI_EMBEDDING_MODEL
        raise Permanent(
            f"no embedding model is set for {self._server}: set GRISTMILL_LLM__EMBEDDING_MODEL, "
            f"or embedding_model in the system settings"
        )

    async def embed(
        self,
        texts: Sequence[str],
        *,
        model: str,
        purpose: Purpose = "document",  # noqa: ARG002 - prefixes are above it
    ) -> Embeddings:
        """Ask once and return the vectors; a text too long for the model, alone or among others, is Permanent.

        The dimension is the model's own: many servers ignore a wish for another.
        """
        if not texts or not all(map(str.strip, texts)):
            raise Permanent("an empty text has no embedding")
        body = {"model": model, "input": list(texts), "encoding_format": "float"}
        limit = ANSWER_LIMIT + len(texts) * VECTOR_LIMIT
        request = _request("embeddings", body)

        async def send() -> httpx2.Response:
            try:
                return await self._post("/embeddings", body, digest=request.digest, limit=limit)
            except (openai.OpenAIError, TimeoutError) as error:
                raise classify(error) from error

        def read_vectors(answer: httpx2.Response) -> Answered[Embeddings]:
            found = vectors.read(answer.text, answer.headers, texts=len(texts), model=model)
            return Answered(found, {"prompt_tokens": found.tokens}, None)

        return await self._calls.make(request, send, read_vectors)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.close()

    def _asked(self, model: str) -> str:
        return self._default if self._default and model == names.TABLE_DEFAULT else model

    async def _complete(
        self, question: "_Question", messages: Sequence[Message], *, times: int, input_tokens: int | None = None
    ) -> Reply:
        """Ask in the strongest form that the server is not known to refuse."""
        abilities = self._abilities.setdefault(question.model, Abilities())
        while True:
            sent, body = self._form(question, messages, abilities, times=times, input_tokens=input_tokens)
            try:
                completion = await self._send(body, adapt=partial(abilities.adapt, sent=sent))
            except openai.APIStatusError:
                input_tokens = sent.input_tokens
                continue
            abilities.reasons = abilities.reasons or dialogue.reasons(completion)
            known = completion.prompt_tokens or sent.input_tokens
            larger = question.limit(abilities, times=dialogue.LARGER, input_tokens=known)
            return Reply(completion, sent.limit, larger)

    def _form(
        self,
        question: "_Question",
        messages: Sequence[Message],
        abilities: Abilities,
        *,
        times: int,
        input_tokens: int | None,
    ) -> tuple[Sent, dict[str, Any]]:
        """Return the form in which a question is sent now, and the body of the request."""
        rung, name = abilities.rung, abilities.limit_name
        told = structured.instructed(messages, rung, question.into)
        if input_tokens is None:
            input_tokens = structured.question_tokens(told, rung, question.into)
        limit = question.limit(abilities, times=times, input_tokens=input_tokens)
        body = {**question.parameters, "model": question.model, "messages": told, name: limit}
        if form := structured.response_format(rung, question.into):
            body["response_format"] = form
        return Sent(rung, name, limit, input_tokens), body

    async def _send(self, body: Mapping[str, Any], *, adapt: Callable[[openai.APIStatusError], bool]) -> Completion:
        """Make one call: every question goes to the provider from here, and from nowhere else.

        A refusal to which ``adapt`` has found another form is raised as it is, every other error as the kernel's.
        """
        request = _request("chat", body)

        async def send() -> httpx2.Response:
            try:
                return await self._post("/chat/completions", body, digest=request.digest)
            except openai.APIStatusError as error:
                if adapt(error):
                    raise
                raise classify(error) from error
            except (openai.OpenAIError, TimeoutError) as error:
                raise classify(error) from error

        def read_completion(answer: httpx2.Response) -> Answered[Completion]:
            found = read(answer.text, answer.headers)
            return Answered(found, found.raw.get("usage"), found.model)

        return await self._calls.make(request, send, read_completion)

    def _context(self, given: int | None, model: str) -> int | None:
        """Return how many tokens question and answer may have together: as the call, its step or the server says."""
        return given or current_position.get(NO_POSITION).context_tokens or self._models.context_of(model)

    async def _post(
        self, path: str, body: Mapping[str, Any], *, digest: str, limit: int = ANSWER_LIMIT
    ) -> httpx2.Response:
        # The body is posted as it is: building it through the client's typed parameters costs 1.3 ms of CPU a call,
        # and its typed result turns what compatible servers really send into attribute errors.
        answer_limit.set(limit)
        async with asyncio.timeout(self._timeout):  # the client's own read timeout starts anew with every byte
            failpoint("provider.before")
            if is_tracing():
                with span(
                    "provider call", attributes={"gen_ai.request.model": str(body.get("model")), "url.path": path}
                ):
                    response = await self._post_body(path, body, digest)
            else:
                response = await self._post_body(path, body, digest)
        failpoint("provider.after")
        return response

    async def _post_body(self, path: str, body: Mapping[str, Any], digest: str) -> httpx2.Response:
        return await self._client.post(
            path, cast_to=httpx2.Response, body=body, options={"headers": _idempotency(digest)}
        )


@dataclass(frozen=True, slots=True)
class _Question:
    """What stays the same in all calls for one answer."""

    into: type[BaseModel]
    model: str
    parameters: Mapping[str, Any]
    bound: int
    context: int | None

    def limit(self, abilities: Abilities, *, times: int, input_tokens: int) -> int:
        return abilities.limit(self.bound, input_tokens=input_tokens, times=times, context=self.context)


def _idempotency(digest: str) -> dict[str, str]:
    """Return the header by which a server, a proxy or an audit knows this question of the current run's job again.

    The same on every attempt of the job, for the same body; another for a re-ask. None outside of runs.
    """
    run = current_run.get()
    if run is None:
        return {}
    return {"Idempotency-Key": f"{run.job_id}-{digest[:16]}"}


def _request(kind: Kind, body: Mapping[str, Any]) -> Request:
    """Return what is to be known of a request: its digest tells this question from any other."""
    text = json.dumps(body, sort_keys=True)
    tokens, most = estimated(body, text, default_output=DEFAULT_OUTPUT if kind == "chat" else 0)
    return Request(
        kind=kind,
        model=body["model"],
        digest=hashlib.sha256(text.encode()).hexdigest(),
        input_tokens=tokens,
        output_tokens=most,
        body=text if kind == "chat" else None,
    )


def _total(counts: Iterable[int | None]) -> int | None:
    """Return the sum of what is known, or None where nothing is."""
    known = [count for count in counts if count is not None]
    return sum(known) if known else None
