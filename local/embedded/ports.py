"""Choose loopback ports that stay ours."""

import random
import socket

from local.embedded.server import HOST

# Below the ranges from which systems take outgoing ports: there, a client that retries a stopped server can connect
# to itself and keep the port.
LOWEST, HIGHEST = 15_000, 32_000


def is_free(port: int) -> bool:
    """Return whether a server could listen on ``port`` now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def choose_port() -> int:
    """Return a free port, drawn at random so that starts at the same time do not meet."""
    draw = random.SystemRandom()
    while not is_free(port := draw.randrange(LOWEST, HIGHEST)):
        pass
    return port
