"""Notice that a client has gone while its request only waits."""

from starlette.types import Receive


async def await_disconnect(receive: Receive) -> None:
    """Return when the client has gone, or when the answer is complete."""
    while (await receive())["type"] != "http.disconnect":
        pass
