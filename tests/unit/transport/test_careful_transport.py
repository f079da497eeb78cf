"""The Redis transport of this process is the careful one, also if something connected before."""

from kombu import Connection

from workers.transport.envelopes import CarefulTransport, use_careful_transport


def test_the_transport_is_careful_though_something_connected_before() -> None:
    """Kombu caches the transport of a name. A service in the same process may have used the name before."""
    assert Connection("redis://127.0.0.1:1").get_transport_cls() is not None

    use_careful_transport()

    for name in ("redis", "rediss"):
        assert Connection(f"{name}://127.0.0.1:1").get_transport_cls() is CarefulTransport
