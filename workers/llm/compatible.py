"""Any OpenAI-compatible server behind the LanguageModel protocol: OpenAI, OpenRouter, LM Studio, llama.cpp, vLLM."""

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from datetime import timedelta
from time import perf_counter
from typing import Any, TypeVar

import httpx2
import openai
from pydantic import BaseModel

from workers.llm import names, structured, vectors
from workers.llm.bodies import ACCEPTED, ANSWER_LIMIT, VECTOR_LIMIT, answer_limit
from workers.llm.calls import Kind
from workers.llm.errors import classify, names_response_format, quotable
from workers.llm.model_list import ModelList
from workers.llm.pauses import Gate
from workers.llm.pool import ManyPools
from workers.llm.provider_calls import Answered, ProviderCalls, Request
from workers.llm.spent import estimated
from workers.llm.structured import InvalidAnswerError, Rung, validated
from workers.llm.wire import Completion, read
from workers.runtime.failpoints import failpoint
from workers.runtime.handler.context import current_run
from workers.runtime.handler.errors import InvalidAnswers, Permanent, Refused, Unavailable
from workers.runtime.handler.ports import Answer, EmbeddingLimits, Embeddings, Message, OfflineRule, Purpose

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
        self._rungs: dict[str, Rung] = {}
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
    ) -> Answer[T]:
        """Ask, once more with the error quoted if the answer is invalid, and return it as ``into``.

        ``parameters`` are members of the request's body. Tokens are those of both calls. Two invalid answers are
        Retryable, as InvalidAnswers: a model's output is random. A model that says in prose that it will not answer,
        asked twice, is Refused.
        """
        started = perf_counter()
        asked = self._asked(model)
        parameters = {**self._bound(max_tokens), **(parameters or {})}
        first = await self._complete(messages, into=into, model=asked, parameters=parameters)
        calls = [first]
        try:
            value = _value(first, into)
        except InvalidAnswerError as error:
            again = structured.reask(messages, first.text, error, into)
            calls.append(await self._complete(again, into=into, model=asked, parameters=parameters))
            try:
                value = _value(calls[-1], into)
            except InvalidAnswerError as second_error:
                if said := structured.declined(calls[-1].text):
                    raise Refused(f"model {asked!r} declined to answer: {quotable(said)!r}") from None
                raise InvalidAnswers(f"model {asked!r} gave two invalid answers: {second_error}") from None
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
        self, messages: Sequence[Message], *, into: type[BaseModel], model: str, parameters: Mapping[str, Any]
    ) -> Completion:
        """Make one call in the strongest form that the server is not known to refuse."""
        while True:
            rung = self._rungs.get(model, Rung.SCHEMA)
            body = {**parameters, "model": model, "messages": structured.instructed(messages, rung, into)}
            if form := structured.response_format(rung, into):
                body["response_format"] = form
            try:
                return await self._calls.make(*self._chat(body, may_descend=rung is not Rung.PROMPT))
            except openai.APIStatusError:
                # Of calls that ran at the same time, only those that asked by this rung may leave it.
                self._rungs[model] = max(self._rungs.get(model, rung), Rung(rung + 1))

    def _chat(
        self, body: Mapping[str, Any], *, may_descend: bool
    ) -> tuple[Request, Callable[[], Awaitable[httpx2.Response]], Callable[[httpx2.Response], Answered[Completion]]]:
        """Return a request with how to send it and read its answer; a refused form is raised as the client's error."""
        request = _request("chat", body)

        async def send() -> httpx2.Response:
            try:
                return await self._post("/chat/completions", body, digest=request.digest)
            except openai.APIStatusError as error:
                if may_descend and names_response_format(error):
                    raise
                raise classify(error) from error
            except (openai.OpenAIError, TimeoutError) as error:
                raise classify(error) from error

        def read_completion(answer: httpx2.Response) -> Answered[Completion]:
            found = read(answer.text, answer.headers)
            return Answered(found, found.raw.get("usage"), found.model)

        return request, send, read_completion

    def _bound(self, max_tokens: int | None) -> dict[str, Any]:
        """Return the member of a body that bounds its answer."""
        if max_tokens is None:
            return {}
        return {"max_completion_tokens" if names.is_openai(self._base_url) else "max_tokens": max_tokens}

    async def _post(
        self, path: str, body: Mapping[str, Any], *, digest: str, limit: int = ANSWER_LIMIT
    ) -> httpx2.Response:
        # The body is posted as it is: building it through the client's typed parameters costs 1.3 ms of CPU a call,
        # and its typed result turns what compatible servers really send into attribute errors.
        answer_limit.set(limit)
        async with asyncio.timeout(self._timeout):  # the client's own read timeout starts anew with every byte
            failpoint("provider.before")
            response = await self._client.post(
                path, cast_to=httpx2.Response, body=body, options={"headers": _idempotency(digest)}
            )
        failpoint("provider.after")
        return response


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


def _value(completion: Completion, into: type[T]) -> T:
    return validated(completion.text, into, truncated=completion.finish_reason == "length")


def _total(counts: Iterable[int | None]) -> int | None:
    """Return the sum of what is known, or None where nothing is."""
    known = [count for count in counts if count is not None]
    return sum(known) if known else None
