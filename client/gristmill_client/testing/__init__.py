"""Test a service without a gateway: :class:`Gateway` has the rules of the real one, in memory.

The same suite of tests runs against both (``client/tests/conformance``).
"""

from gristmill_client.testing.callbacks import Callback
from gristmill_client.testing.gateway import BASE_URL, Gateway
from gristmill_client.testing.transport import GatewayTransport

__all__ = ["BASE_URL", "Callback", "Gateway", "GatewayTransport"]
