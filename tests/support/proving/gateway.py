"""The gateway of a proving system: with real keys, and with callbacks to this machine."""

from functools import partial

from gateway.app import create_app
from gateway.callers.authentication import open_authenticator
from gateway.server import serve_app
from tests.support.callbacks import LOOPBACK
from tests.support.gateway import make_resources
from workers.notifications.rules import CallbackRules
from workers.operations.keyring import Keyring

GRACE_SECONDS = 5.0


def serve(database_url: str, redis_url: str, *, port: int, secret_key: str) -> int:
    """Serve until SIGTERM."""
    keyring = Keyring([secret_key])
    resources = make_resources(
        database_url,
        redis_url,
        open_authenticator=partial(open_authenticator, issuer=None, actor_key=None),
        keyring=keyring,
        callbacks=CallbackRules(keyring=keyring, allow=LOOPBACK),
    )
    return serve_app(
        create_app(resources),
        address="127.0.0.1",
        port=port,
        grace_seconds=GRACE_SECONDS,
        max_connections=resources.max_connections,
        trusted_proxies=(),
    )
