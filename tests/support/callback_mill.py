"""A worker and a dispatcher that send callbacks: ``python -m tests.support.callback_mill URL KEY``. Tests kill it."""

import asyncio
import sys

from tests.support.callbacks import telling
from workers.operations.keyring import Keyring
from workers.runtime.handler.registry import discover


async def run(url: str, key: str) -> None:
    """Run until the process is killed."""
    import tests.support.proving.stages  # noqa: F401 - registers the proving stages

    async with telling(url, discover(), keyring=Keyring([key])):
        await asyncio.sleep(3_600)


if __name__ == "__main__":
    asyncio.run(run(*sys.argv[1:]))
