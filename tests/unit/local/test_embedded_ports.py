"""Free ports for the embedded servers."""

import socket

from local.embedded.ports import MAX_PORT, MIN_PORT, choose_port, is_free
from local.embedded.server import HOST


def test_a_port_that_somebody_listens_on_is_not_free() -> None:
    """A port in use is not free. It is free again after its socket is closed."""
    with socket.create_server((HOST, 0)) as stranger:
        port = stranger.getsockname()[1]

        assert not is_free(port)
    assert is_free(port)


def test_chosen_ports_lie_below_the_range_of_outgoing_connections() -> None:
    """The port of a stopped server must not be used as the local port of a client that retries."""
    port = choose_port()

    assert MIN_PORT <= port < MAX_PORT < 32_768
