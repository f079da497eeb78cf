"""The batch APIs of providers: OpenAI's, with files, and OpenRouter's, with the requests in the call."""

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import IO, Any, Protocol
from urllib.parse import urlsplit, urlunsplit

import httpx2
import openai

from workers.llm.errors import classify, message_of, quotable
from workers.llm.pool import proxy_for
from workers.runtime.handler.batches import NoBatchesError, ProviderBatch
from workers.runtime.handler.errors import Permanent, Retryable

ENDPOINT = "/v1/chat/completions"
# The name under which a batch carries the id of our job, so that it is found again.
MARK = "gristmill_batch"
OVER = frozenset({"completed", "failed", "expired", "cancelled"})
# A server's clock may differ from the database's by this much.
CLOCKS_DIFFER = timedelta(minutes=5)
MAX_PAGES, PAGE_SIZE = 50, 100
# Answers that say that there is no such API here, and not that this batch is wrong.
NOT_OFFERED = frozenset({404, 405, 501})
LINE_BYTES = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchProvider:
    """Whom a batch asks: the ``kind`` says which form of the API, as in ``llm.providers``."""

    name: str
    kind: str
    base_url: str
    api_key: str

    @property
    def takes_files(self) -> bool:
        """Whether the lines are uploaded as a file."""
        return self.kind != "openrouter"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewBatch:
    """A batch to be created: ``name`` is our job's id, ``file`` has its lines or ``input_file_id`` names them there."""

    name: str
    model: str
    lines: int
    input_file_id: str | None = None
    file: IO[bytes] | None = None


class BatchApi(Protocol):
    """One provider's batches. Raises the kernel's errors; NoBatchesError where there are none."""

    async def upload(self, file: IO[bytes], *, name: str) -> str | None: ...

    async def find(self, batch: NewBatch, *, since: datetime) -> ProviderBatch | None: ...

    async def create(self, batch: NewBatch) -> ProviderBatch: ...

    async def look(self, batch_id: str) -> ProviderBatch: ...

    async def cancel(self, batch_id: str) -> None: ...

    def results(self, batch: ProviderBatch) -> AsyncIterator[str | Mapping[str, Any]]: ...

    async def aclose(self) -> None: ...


class _Api:
    """The calls that both forms make. A call may be repeated: the connection is not, and the kernel retries jobs."""

    def __init__(self, provider: BatchProvider, *, base_url: str, connect_timeout: float, timeout: float) -> None:
        waits = httpx2.Timeout(timeout, connect=connect_timeout)
        self._name = provider.name
        self._client = openai.AsyncOpenAI(
            api_key=provider.api_key,
            base_url=base_url,
            max_retries=0,
            timeout=waits,
            http_client=httpx2.AsyncClient(timeout=waits, proxy=proxy_for(base_url)),
        )

    async def look(self, batch_id: str) -> ProviderBatch:
        """Return the batch; one that was created a moment ago may not be known everywhere yet."""
        try:
            return self._read(await self._get(f"/batches/{batch_id}"))
        except NoBatchesError as error:
            raise Retryable(f"provider {self._name} does not know batch {batch_id} now") from error

    async def aclose(self) -> None:
        await self._client.close()

    async def _get(self, path: str) -> Mapping[str, Any]:
        return await self._json(self._client.get(path, cast_to=httpx2.Response))

    async def _post(self, path: str, body: object = None, *, key: str | None = None) -> Mapping[str, Any]:
        headers = {"Idempotency-Key": key} if key else {}
        return await self._json(
            self._client.post(path, cast_to=httpx2.Response, body=body, options={"headers": headers})
        )

    async def _json(self, call: Any) -> Mapping[str, Any]:
        try:
            value = (await call).json()
        except (openai.OpenAIError, TimeoutError) as error:
            raise self._failure(error) from error
        except ValueError:
            value = None
        if not isinstance(value, Mapping):
            raise NoBatchesError(f"provider {self._name} offers no batches: its answer is no JSON object")
        return value

    def _failure(self, error: Exception) -> Exception:
        if isinstance(error, openai.APIStatusError) and error.status_code in NOT_OFFERED:
            said = quotable(message_of(error.body)) or f"HTTP {error.status_code}"
            return NoBatchesError(f"provider {self._name} offers no such batch: {said}")
        return classify(error)

    def _read(self, raw: Mapping[str, Any]) -> ProviderBatch:
        found, status = raw.get("id"), raw.get("status")
        if not isinstance(found, str) or not found or not isinstance(status, str):
            raise Permanent(f"provider {self._name} answered with a batch without an id and a status")
        counts, usage = raw.get("request_counts"), raw.get("usage")
        return ProviderBatch(
            id=found,
            status=status[:40],
            is_over=status in OVER,
            counts=counts if isinstance(counts, Mapping) else None,
            usage=usage if isinstance(usage, Mapping) else None,
            results=self._results(raw),
            failure=_failure_of(raw),
        )

    def _results(self, raw: Mapping[str, Any]) -> tuple[str, ...]:
        files = (raw.get(name) for name in ("output_file_id", "error_file_id"))
        return tuple(name for name in files if isinstance(name, str) and name)


class OpenAIBatches(_Api):
    """OpenAI's form: a file of lines is uploaded, and the results are files too."""

    def __init__(self, provider: BatchProvider, *, connect_timeout: float, timeout: float) -> None:
        super().__init__(provider, base_url=provider.base_url, connect_timeout=connect_timeout, timeout=timeout)

    async def upload(self, file: IO[bytes], *, name: str) -> str | None:
        """Send the lines; return the file's id."""
        try:
            sent = await self._client.files.create(file=(f"{name}.jsonl", file), purpose="batch")
        except (openai.OpenAIError, TimeoutError) as error:
            raise self._failure(error) from error
        if not isinstance(getattr(sent, "id", None), str):
            raise NoBatchesError(f"provider {self._name} offers no batches: it keeps no files")
        return sent.id

    async def find(self, batch: NewBatch, *, since: datetime) -> ProviderBatch | None:
        """Return the batch with our mark among those that are no older than ``since``."""
        after = ""
        for _ in range(MAX_PAGES):
            page = await self._get(f"/batches?limit={PAGE_SIZE}{after}")
            rows = [row for row in page.get("data") or () if isinstance(row, Mapping)]
            for row in rows:
                metadata = row.get("metadata")
                if isinstance(metadata, Mapping) and metadata.get(MARK) == batch.name:
                    return self._read(row)
            if not rows or not page.get("has_more") or _is_older(rows[-1], since):
                return None
            after = f"&after={rows[-1].get('id')}"
        return None

    async def create(self, batch: NewBatch) -> ProviderBatch:
        """Create the batch of an uploaded file."""
        body = {
            "input_file_id": batch.input_file_id,
            "endpoint": ENDPOINT,
            "completion_window": "24h",
            "metadata": {MARK: batch.name},
        }
        return self._read(await self._post("/batches", body, key=batch.name))

    async def cancel(self, batch_id: str) -> None:
        """Cancel the batch; what is answered by then is in its files."""
        await self._post(f"/batches/{batch_id}/cancel")

    async def results(self, batch: ProviderBatch) -> AsyncIterator[str | Mapping[str, Any]]:
        """Yield the lines of the result files, one at a time; the files are never held in memory."""
        for name in batch.results:
            with tempfile.TemporaryFile() as file:
                try:
                    async with self._client.files.with_streaming_response.content(name) as answer:
                        async for part in answer.iter_bytes(LINE_BYTES):
                            await asyncio.to_thread(file.write, part)
                except (openai.OpenAIError, TimeoutError) as error:
                    raise self._failure(error) from error
                file.seek(0)
                for line in file:
                    yield line.decode("utf-8", "replace")


class OpenRouterBatches(_Api):
    """OpenRouter's form: the requests are members of the call, and so are the results of the answer.

    ``endpoint`` and ``model`` stand before ``requests``: it reads the body as it comes.
    """

    def __init__(self, provider: BatchProvider, *, connect_timeout: float, timeout: float) -> None:
        super().__init__(
            provider, base_url=batches_url(provider.base_url), connect_timeout=connect_timeout, timeout=timeout
        )

    async def upload(self, file: IO[bytes], *, name: str) -> str | None:  # noqa: ARG002 - nothing is uploaded
        return None

    async def find(self, batch: NewBatch, *, since: datetime) -> ProviderBatch | None:
        """Return the batch that must be ours: of this model and number of lines, and no older than ``since``.

        It keeps no mark of ours. Two that look alike are not told apart, and none is taken for ours.
        """
        page = await self._get("/batches")
        rows = [row for row in page.get("data") or () if isinstance(row, Mapping)]
        alike = [
            row
            for row in rows
            if row.get("model") in (batch.model, None)
            and isinstance(counts := row.get("request_counts"), Mapping)
            and counts.get("total") == batch.lines
            and not _is_older(row, since)
        ]
        return self._read(alike[0]) if len(alike) == 1 else None

    async def create(self, batch: NewBatch) -> ProviderBatch:
        """Create the batch of these lines."""
        assert batch.file is not None
        body = await asyncio.to_thread(_inline_body, batch)
        return self._read(await self._post("/batches", body, key=batch.name))

    async def cancel(self, batch_id: str) -> None:
        """Cancel the batch where that is offered; elsewhere it ends by itself, and what it answers is booked."""
        try:
            await self._post(f"/batches/{batch_id}/cancel")
        except NoBatchesError:
            return

    async def results(self, batch: ProviderBatch) -> AsyncIterator[str | Mapping[str, Any]]:
        """Yield the results of a batch that is over."""
        raw = await self._get(f"/batches/{batch.id}")
        for row in raw.get("results") or ():
            if isinstance(row, Mapping):
                yield row


def batch_api(provider: BatchProvider, *, connect_timeout: float, timeout: float) -> BatchApi:
    """Return the batches of ``provider``."""
    make = OpenAIBatches if provider.takes_files else OpenRouterBatches
    return make(provider, connect_timeout=connect_timeout, timeout=timeout)


def batches_url(base_url: str) -> str:
    """Return the address of OpenRouter's batches for its address of completions: ``…/api/beta`` for ``…/api/v1``."""
    parts = urlsplit(base_url)
    path = parts.path.rstrip("/").removesuffix("/v1").removesuffix("/beta")
    return urlunsplit((parts.scheme, parts.netloc, f"{path}/beta", "", ""))


def _inline_body(batch: NewBatch) -> dict[str, Any]:
    assert batch.file is not None
    batch.file.seek(0)
    requests = []
    for line in batch.file:
        row = json.loads(line)
        body = {name: value for name, value in row["body"].items() if name != "model"}
        requests.append({"custom_id": row["custom_id"], "body": body})
    return {"endpoint": ENDPOINT, "model": batch.model, "requests": requests}


def _is_older(row: Mapping[str, Any], since: datetime) -> bool:
    made = row.get("created_at")
    return isinstance(made, (int, float)) and made < (since - CLOCKS_DIFFER).timestamp()


def _failure_of(raw: Mapping[str, Any]) -> str | None:
    """Return why a batch failed as a whole: its code and its words."""
    errors = raw.get("errors")
    rows = errors.get("data") if isinstance(errors, Mapping) else None
    first = next((row for row in rows or () if isinstance(row, Mapping)), raw.get("error"))
    if not isinstance(first, Mapping):
        return None
    parts = (first.get("code"), first.get("message"))
    return quotable(": ".join(part for part in parts if isinstance(part, str) and part)) or None
