"""Decide which addresses may be called. Pure.

Sources: the special-purpose registries of IANA (RFC 6890 and its successors), and the clouds' documentation of their
metadata services. An IPv6 address that contains an IPv4 address is judged by the IPv4 address.
"""

from collections.abc import Iterable, Sequence
from functools import cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# These services give out the credentials of the machine. No list admits them.
METADATA_NETWORKS = (
    "169.254.169.254/32",  # AWS, Google, Azure, DigitalOcean, OpenStack, Oracle
    "169.254.169.253/32",  # DNS resolver of AWS
    "169.254.170.2/32",  # credentials of an ECS task
    "169.254.170.23/32",  # credentials of a pod in EKS
    "168.63.129.16/32",  # the host of an Azure machine, although the address looks public
    "100.100.100.200/32",  # Alibaba
    "192.0.0.192/32",  # Oracle
    "fd00:ec2::254/128",  # AWS
    "fd00:ec2::23/128",  # credentials of a pod in EKS
    "fd20:ce::254/128",  # Google
    "fd00:c1::a9fe:a9fe/128",  # Oracle
)
SPECIAL_NETWORKS = {
    "0.0.0.0/8": "this network",
    "10.0.0.0/8": "private",
    "100.64.0.0/10": "shared by a carrier",
    "127.0.0.0/8": "loopback",
    "169.254.0.0/16": "link-local",
    "172.16.0.0/12": "private",
    "192.0.0.0/24": "reserved for protocols",
    "192.0.2.0/24": "for documentation",
    "192.31.196.0/24": "reserved for protocols",
    "192.52.193.0/24": "reserved for protocols",
    "192.88.99.0/24": "a relay of 6to4",
    "192.168.0.0/16": "private",
    "192.175.48.0/24": "reserved for protocols",
    "198.18.0.0/15": "for benchmarks",
    "198.51.100.0/24": "for documentation",
    "203.0.113.0/24": "for documentation",
    "224.0.0.0/4": "multicast",
    "240.0.0.0/4": "reserved",
    "::1/128": "loopback",
    "::/96": "IPv4-compatible",
    "64:ff9b:1::/48": "a local translation to IPv4",
    "100::/64": "discarded",
    "2001::/32": "Teredo",
    "2001:db8::/32": "for documentation",
    "2001::/23": "reserved for protocols",
    "2002::/16": "6to4",
    "3fff::/20": "for documentation",
    "5f00::/16": "segment routing",
    "fc00::/7": "private",
    "fe80::/10": "link-local",
    "fec0::/10": "site-local",
    "ff00::/8": "multicast",
}
# The addresses that are routed on the internet. Every other IPv6 address that is not named above is reserved.
GLOBAL_IPV6 = IPv6Network("2000::/3")
# In both, the last four bytes are the IPv4 address.
MAPPED, TRANSLATED = IPv6Network("::ffff:0:0/96"), IPv6Network("64:ff9b::/96")


def parse_networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Return the networks of these CIDRs; raise ValueError, which names the value, if one is invalid."""
    return tuple(ip_network(text) for text in texts)


def reason_against(address: str, allow: Sequence[Network] = ()) -> str | None:
    """Return why ``address`` may not be called, or None if it may.

    ``allow`` admits addresses that are not public, for development. It never admits the metadata services of clouds.
    """
    try:
        actual = unwrap_ipv4(ip_address(address))
    except ValueError:
        return "no address"
    if any(actual in network for network in _metadata_networks()):
        return "a metadata service"
    if any(actual in network for network in allow if network.version == actual.version):
        return None
    for network, reason in _special_networks():
        if network.version == actual.version and actual in network:
            return reason
    return "reserved" if isinstance(actual, IPv6Address) and actual not in GLOBAL_IPV6 else None


def unwrap_ipv4(address: Address) -> Address:
    """Return the IPv4 address in a mapped or translated IPv6 address; return any other address unchanged."""
    if isinstance(address, IPv6Address) and (address in MAPPED or address in TRANSLATED):
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


@cache
def _metadata_networks() -> tuple[Network, ...]:
    return parse_networks(METADATA_NETWORKS)


@cache
def _special_networks() -> tuple[tuple[Network, str], ...]:
    return tuple((ip_network(text), reason) for text, reason in SPECIAL_NETWORKS.items())
