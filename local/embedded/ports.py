"""Choose loopback ports for servers."""

import random
import socket

from local.embedded.server import HOST

# These ports are below the range for outgoing connections. In that range a client that retries a stopped server can
# connect to itself and occupy the port.
MIN_PORT, MAX_PORT = 15_000, 32_000


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
    """Return a free port at random, so that servers that start at the same time do not choose the same one."""
    draw = random.SystemRandom()
    while not is_free(port := draw.randrange(MIN_PORT, MAX_PORT)):
        pass
    return port
