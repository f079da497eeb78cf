"""Which URLs and which host names may be called."""

import pytest

from workers.outbound.addresses import parse_networks
from workers.outbound.destinations import allowed_addresses, parse_destination
from workers.runtime.handler.errors import Permanent, Retryable
from workers.runtime.handler.outside import ForbiddenDestination

GOOD = {
    "https://example.com": ("example.com", 443),
    "HTTP://EXAMPLE.com/a?b#c": ("example.com", 80),
    "https://example.com:8443/x": ("example.com", 8443),
    "https://exämple.com/": ("xn--exmple-cua.com", 443),
    "http://[2606:4700::1111]:8080/": ("2606:4700::1111", 8080),
    "https://a_b.example.com./": ("a_b.example.com.", 443),
}
BAD = {
    "ftp://example.com/": "must start with http:// or https://",
    "file:///etc/passwd": "must start with http:// or https://",
    "gopher://example.com/": "must start with http:// or https://",
    "//example.com/": "must start with http:// or https://",
    "example.com": "must start with http:// or https://",
    "": "must start with http:// or https://",
    "http://user:secret@example.com/": "must not have a user or a password",
    "http://user@example.com/": "must not have a user or a password",
    "http://example.com@127.0.0.1/": "must not have a user or a password",
    "http://example.com\\@127.0.0.1/": "must",
    "http:///path": "must name a host",
    "http://a b/": "must name a host",
    "http://[fe80::1%25eth0]/": "must name a host",
    "http://exa%6dple.com/": "must name a host",
    "http://example.com:22/": "port 22 must not be called",
    "http://example.com:25/": "port 25 must not be called",
    "http://example.com:6379/": "port 6379 must not be called",
    "https://example.com:5432/": "port 5432 must not be called",
    "http://example.com:99999/": "port 99999 must not be called",
    "http://exam\r\nple.com/": "cannot be read",
    "http://example.com:port/": "cannot be read",
    f"http://example.com/{'a' * 2_048}": "2,048 characters at most",
}


@pytest.mark.parametrize(("url", "expected"), GOOD.items(), ids=GOOD)
def test_a_url_names_its_host_and_port(url, expected):
    """The host has the form that is looked up."""
    found = parse_destination(url)

    assert (found.host, found.port) == expected


@pytest.mark.parametrize(("url", "said"), BAD.items(), ids=[repr(url)[:40] for url in BAD])
def test_a_url_that_may_not_be_called_is_refused_for_good(url, said):
    """The message is one line without the password."""
    with pytest.raises(ForbiddenDestination) as caught:
        parse_destination(url)

    assert said in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, Permanent)


def test_the_loggable_url_has_scheme_host_and_port_only():
    """The shown URL has no path and no query, because these may hold tokens."""
    assert parse_destination("https://[::1]:8443/hook/t0ken?key=s3cret").loggable == "https://[::1]:8443"


def resolving(*addresses: str):
    async def resolve(host: str, port: int):
        return addresses

    return resolve


async def test_a_name_with_public_addresses_may_be_called():
    """All addresses are returned in their order."""
    found = await allowed_addresses("a.example", 443, allow=(), resolve=resolving("2606:4700::1", "1.1.1.1"))

    assert found == ("2606:4700::1", "1.1.1.1")


async def test_one_address_inside_the_network_forbids_the_name():
    """Its other addresses do not matter, and the refusal names no address."""
    with pytest.raises(ForbiddenDestination, match="must not be called: its address is private") as caught:
        await allowed_addresses("a.example", 443, allow=(), resolve=resolving("1.1.1.1", "10.1.2.3"))

    assert "10.1.2.3" not in str(caught.value)


async def test_a_name_with_no_address_may_have_one_later():
    """A failed lookup is retryable."""

    async def missing(host: str, port: int):
        raise OSError("Name or service not known")

    for resolve in (missing, resolving()):
        with pytest.raises(Retryable):
            await allowed_addresses("a.example", 443, allow=(), resolve=resolve)


async def test_a_list_admits_a_name_inside_the_network():
    """This is for agents on a development machine."""
    found = await allowed_addresses(
        "a.example", 80, allow=parse_networks(["10.0.0.0/8"]), resolve=resolving("10.1.2.3")
    )

    assert found == ("10.1.2.3",)
