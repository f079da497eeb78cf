"""What the doors of endpoints need to know of their process: the key of stored secrets, the allowed addresses."""

import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from urllib.parse import urlsplit

from workers.notifications.refusals import CallbackError
from workers.outbound.addresses import Network, reason_against
from workers.outbound.destinations import parse_destination
from workers.runtime.handler.outside import ForbiddenDestination, Keyring
from workers.runtime.refusals import Problem

_OPEN = "GRISTMILL_OUTBOUND__ALLOW admits addresses inside the network"


@dataclass(frozen=True, slots=True, kw_only=True)
class CallbackRules:
    """``keyring`` encrypts new secrets; ``allow`` admits addresses inside the network, for development."""

    keyring: Keyring = field(repr=False)
    allow: Sequence[Network] = ()


def check_url(url: str, *, allow: Sequence[Network] = (), field_name: str = "url") -> str:
    """Return ``url`` if it may be called, as far as that is known without a lookup; else raise CallbackError.

    A name is looked up and its addresses are checked at each attempt. The message does not quote the URL, which may
    contain a secret.
    """
    try:
        where = parse_destination(url)
    except ForbiddenDestination as error:
        raise CallbackError(Problem(field_name, f"must be allowed: {error}")) from None
    address = _address_of(where.host)
    if address and (reason := reason_against(address, allow)):
        raise CallbackError(Problem(field_name, f"must not be an address that is {reason}", None, _OPEN))
    if where.host.rstrip(".").lower() == "localhost" and reason_against("127.0.0.1", allow):
        raise CallbackError(Problem(field_name, "must not be this machine", None, _OPEN))
    return url


def without_query(url: str) -> str:
    """Return ``url`` without its query, which may contain a secret: for lists and logs."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _address_of(host: str) -> str | None:
    """Return the address that ``host`` is, in any spelling that a resolver reads as one; None for a name."""
    try:
        return str(ip_address(host))
    except ValueError:
        pass
    try:
        return socket.inet_ntoa(socket.inet_aton(host.rstrip(".")))
    except (OSError, ValueError):
        return None
