"""Ports that nobody else holds."""

import socket

from local.embedded.ports import HIGHEST, LOWEST, choose_port, is_free
from local.embedded.server import HOST


def test_a_port_that_somebody_listens_on_is_not_free() -> None:
    """A taken port is seen as taken, and as free once its holder is gone."""
    with socket.create_server((HOST, 0)) as stranger:
        port = stranger.getsockname()[1]

        assert not is_free(port)
    assert is_free(port)


def test_chosen_ports_lie_below_the_range_of_outgoing_connections() -> None:
    """A client that retries while a server is down must not be given the server's own port to call from."""
    port = choose_port()

    assert LOWEST <= port < HIGHEST < 32_768
