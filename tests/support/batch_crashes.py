"""A worker process with a batch lane that ends at a failpoint: ``python -m tests.support.batch_crashes URL FAKE KIND``.

It runs the jobs that are due, as a mill does, until its failpoint (``GRISTMILL_FAILPOINTS``) ends it.
"""

import asyncio
import sys
import uuid

from gristmill_testing.mill import mill
from tests.support.batching import make_parts
from tests.support.fakes.openai_server import FakeOpenAI
from workers.runtime.database import Database
from workers.runtime.handler.registry import discover


async def run(url: str, fake_url: str, kind: str) -> None:
    """Run until the process is ended."""
    fake = FakeOpenAI()
    fake.url = fake_url  # the server of the parent process
    database = Database(url, changed_by=f"worker:{uuid.uuid4()}")
    parts = make_parts(database, fake, kind=kind)
    async with mill(url, discover(), parts.llm, batches=parts.batches, poll_seconds=0.05):
        await asyncio.sleep(120)


if __name__ == "__main__":
    asyncio.run(run(*sys.argv[1:]))
