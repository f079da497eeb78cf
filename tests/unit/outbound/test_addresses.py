"""Which addresses may be called, which may not, and which no list admits."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.outbound.addresses import METADATA_NETWORKS, SPECIAL_NETWORKS, parse_networks, reason_against

PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "93.184.215.14",
    "100.63.255.255",
    "100.128.0.1",
    "126.255.255.255",
    "128.0.0.1",
    "172.15.255.255",
    "172.32.0.1",
    "192.0.1.1",
    "192.167.255.255",
    "198.17.255.255",
    "198.20.0.1",
    "223.255.255.255",
    "2606:4700:4700::1111",
    "2a00:1450:4001:81b::200e",
    "::ffff:8.8.8.8",
    "64:ff9b::8.8.8.8",
]
REFUSED = {
    "0.0.0.0": "this network",  # noqa: S104 - nobody binds to it here
    "0.1.2.3": "this network",
    "10.0.0.1": "private",
    "10.255.255.255": "private",
    "100.64.0.1": "shared by a carrier",
    "100.127.255.255": "shared by a carrier",
    "127.0.0.1": "loopback",
    "127.255.255.254": "loopback",
    "169.254.0.1": "link-local",
    "172.16.0.1": "private",
    "172.31.255.255": "private",
    "192.0.0.1": "reserved for protocols",
    "192.0.2.1": "for documentation",
    "192.88.99.1": "a relay of 6to4",
    "192.168.1.1": "private",
    "198.18.0.1": "for benchmarks",
    "198.19.255.255": "for benchmarks",
    "198.51.100.1": "for documentation",
    "203.0.113.1": "for documentation",
    "224.0.0.1": "multicast",
    "239.255.255.255": "multicast",
    "240.0.0.1": "reserved",
    "255.255.255.255": "reserved",
    "::": "IPv4-compatible",
    "::1": "loopback",
    "::127.0.0.1": "IPv4-compatible",
    "::8.8.8.8": "IPv4-compatible",
    "::ffff:127.0.0.1": "loopback",
    "::ffff:10.0.0.1": "private",
    "::ffff:7f00:1": "loopback",
    "::ffff:0:127.0.0.1": "reserved",
    "64:ff9b::127.0.0.1": "loopback",
    "64:ff9b::a00:1": "private",
    "64:ff9b:1::8.8.8.8": "a local translation to IPv4",
    "100::1": "discarded",
    "2001::1": "Teredo",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2": "Teredo",
    "2001:2::1": "reserved for protocols",
    "2001:10::1": "reserved for protocols",
    "2001:20::1": "reserved for protocols",
    "2001:db8::1": "for documentation",
    "2002:7f00:1::": "6to4",
    "2002:808:808::1": "6to4",
    "3fff::1": "for documentation",
    "4000::1": "reserved",
    "5f00::1": "segment routing",
    "fc00::1": "private",
    "fd12:3456:789a::1": "private",
    "fe80::1": "link-local",
    "fe80::1%eth0": "link-local",
    "febf::1": "link-local",
    "fec0::1": "site-local",
    "ff02::1": "multicast",
    "169.254.169.254": "a metadata service",
    "::ffff:169.254.169.254": "a metadata service",
    "64:ff9b::a9fe:a9fe": "a metadata service",
    "169.254.170.2": "a metadata service",
    "168.63.129.16": "a metadata service",
    "100.100.100.200": "a metadata service",
    "192.0.0.192": "a metadata service",
    "fd00:ec2::254": "a metadata service",
    "127.1": "no address",
    "0x7f000001": "no address",
    "2130706433": "no address",
    "localhost": "no address",
    "": "no address",
}


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_may_be_called(address):
    """This includes addresses next to a forbidden network, and IPv4 addresses written as IPv6."""
    assert reason_against(address) is None


@pytest.mark.parametrize(("address", "reason"), REFUSED.items(), ids=[name or "empty" for name in REFUSED])
def test_an_address_that_is_not_public_is_refused_with_its_reason(address, reason):
    """This holds for every spelling, and for text that is not an address."""
    assert reason_against(address) == reason


@pytest.mark.parametrize("network", SPECIAL_NETWORKS)
def test_both_ends_of_each_special_network_are_refused(network):
    """A list can admit them, unless they are a metadata service."""
    ends = ipaddress.ip_network(network)[0], ipaddress.ip_network(network)[-1]
    for end in map(str, ends):
        assert reason_against(end)
        assert reason_against(end, parse_networks([network])) is None


@pytest.mark.parametrize("network", METADATA_NETWORKS)
def test_no_list_admits_a_metadata_service(network):
    """Even a list of all addresses does not admit it."""
    address = str(ipaddress.ip_network(network)[0])

    assert reason_against(address, parse_networks(["0.0.0.0/0", "::/0"])) == "a metadata service"


def test_a_list_admits_what_is_in_it_and_nothing_else():
    """A mapped address is checked as its IPv4 address."""
    allow = parse_networks(["127.0.0.0/8", "fd00:1::/32"])

    assert reason_against("127.0.0.1", allow) is None
    assert reason_against("::ffff:127.0.0.1", allow) is None
    assert reason_against("fd00:1::5", allow) is None
    assert reason_against("10.0.0.1", allow) == "private"
    assert reason_against("::1", allow) == "loopback"
    assert reason_against("fd00:2::5", allow) == "private"


@given(st.ip_addresses())
def test_what_python_says_is_not_global_is_refused(address):
    """Every address that the standard library calls not global is refused."""
    if not address.is_global:
        assert reason_against(str(address))


@pytest.mark.parametrize("text", ["10.0.0.1/8", "10.0.0.0/33", "office", ""])
def test_a_list_of_what_is_no_network_is_refused(text):
    """The error comes when the process starts, not at the first call."""
    with pytest.raises(ValueError, match=r"."):
        parse_networks([text])
