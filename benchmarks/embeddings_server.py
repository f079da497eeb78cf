"""An embeddings provider with a fixed number of slots and a fixed time per request, like a GPU. It measures its use.

``python -m benchmarks.embeddings_server --slots 8 --seconds 0.4 --texts 10000`` makes the vectors of the corpus, then
prints its base URL. ``GET /stats`` returns requests, texts, and the share of the slots' time that was used between the
first request and the last answer since the last ``GET /stats``.
"""

import argparse
import asyncio
import contextlib
import json
import time
from typing import Any

from benchmarks.corpus import sentences
from workers.llm.feature_hash import vector


class Slots:
    """A limit of requests at once; others wait. Measures the time in which slots are used."""

    def __init__(self, count: int, seconds: float) -> None:
        self._turn = asyncio.Semaphore(count)
        self._seconds = seconds
        self._count = count
        self.forget()

    def forget(self) -> None:
        self.requests = self.texts = 0
        self._used = 0.0
        self._first = self._last = 0.0

    async def serve(self, texts: int) -> None:
        """Use a slot for the time of one request."""
        self._first = self._first or time.monotonic()
        async with self._turn:
            began = time.monotonic()
            await asyncio.sleep(self._seconds)
            self._last = time.monotonic()
            # Count only the configured time: the delay of a busy loop is not work.
            self._used += min(self._last - began, self._seconds)
        self.requests += 1
        self.texts += texts

    def statistics(self) -> dict[str, Any]:
        window = (self._last - self._first) * self._count
        return {
            "requests": self.requests,
            "texts": self.texts,
            "seconds": self._last - self._first,
            "busy": self._used / window if window else 0.0,
        }


def response(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)


async def serve(*, slots: int, seconds: float, texts: int, port: int = 0) -> None:
    """Serve on loopback until cancelled; print the base URL first."""
    known = {text: json.dumps([round(number, 6) for number in vector(text)]) for text in sentences(texts)}
    counted = Slots(slots, seconds)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0] or 0)
                body = await reader.readexactly(length)
                if head.startswith(b"get /stats"):
                    writer.write(response(json.dumps(counted.statistics()).encode()))
                    counted.forget()
                    continue
                asked = json.loads(body)
                await counted.serve(len(asked["input"]))
                items = (f'{{"index":{i},"embedding":{known[t]}}}' for i, t in enumerate(asked["input"]))
                writer.write(response(f'{{"data":[{",".join(items)}],"model":"bench"}}'.encode()))
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", port, limit=16 * 1024 * 1024)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slots", type=int, default=8, help="requests that it processes at once")
    parser.add_argument("--seconds", type=float, default=0.4, help="time of each request")
    parser.add_argument("--texts", type=int, default=10_000, help="size of its corpus")
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    arguments = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(slots=arguments.slots, seconds=arguments.seconds, texts=arguments.texts, port=arguments.port))
