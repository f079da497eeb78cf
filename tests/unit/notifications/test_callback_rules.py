"""Which addresses the doors of endpoints accept."""

import pytest

from workers.notifications.refusals import CallbackError
from workers.notifications.rules import check_url, without_query
from workers.outbound.addresses import parse_networks
from workers.runtime.enqueue_validation import MAX_CALLBACK_CHARACTERS

INSIDE = [
    "http://127.0.0.1/hook",
    "http://127.1/hook",
    "http://2130706433/hook",
    "http://0x7f000001/hook",
    "http://localhost:8080/hook",
    "http://LOCALHOST./hook",
    "http://10.0.0.8/hook",
    "http://192.168.1.1/hook",
    "http://172.16.0.1/hook",
    "http://100.64.0.1/hook",
    "http://169.254.169.254/latest/meta-data",
    "http://0.0.0.0/hook",
    "http://[::1]/hook",
    "http://[::ffff:127.0.0.1]/hook",
    "http://[64:ff9b::7f00:1]/hook",
    "http://[fd00:ec2::254]/hook",
    "http://[fe80::1]/hook",
]
NO_CALLBACKS = [
    "",
    "service.example",
    "ftp://service.example/",
    "file:///etc/passwd",
    "https://user:pass@service.example/",
    "https://service.example:22/",
    "https:///path",
    "http://0177.0.0.1/hook",
    "https://a b.example/",
    "https://service.example\\@127.0.0.1/",
    "https://service.example/" + "x" * 3_000,
]


@pytest.mark.parametrize("url", INSIDE)
def test_an_address_inside_the_network_is_refused_in_any_spelling(url):
    """The message does not repeat the URL, which may contain a secret."""
    with pytest.raises(CallbackError, match="url must not be") as caught:
        check_url(url + "?token=hidden")

    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("url", NO_CALLBACKS)
def test_what_is_no_callback_is_refused(url):
    """One line each."""
    with pytest.raises(CallbackError, match="url must be allowed: "):
        check_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://service.example/hook",
        "http://service.example:8443/a?b=c",
        "https://93.184.216.34/",
        "https://1e100.net",
        "https://service.example/".ljust(MAX_CALLBACK_CHARACTERS, "a"),
    ],
)
def test_other_addresses_are_accepted(url):
    """A name is looked up when it is called."""
    assert check_url(url) == url


def test_development_may_admit_this_machine():
    """By its list of networks, and never the metadata services."""
    allow = parse_networks(["127.0.0.0/8", "169.254.0.0/16"])

    assert check_url("http://127.0.0.1:8000/", allow=allow)
    assert check_url("http://localhost:8000/", allow=allow)
    with pytest.raises(CallbackError, match="metadata"):
        check_url("http://169.254.169.254/", allow=allow)


def test_a_shown_url_has_no_query():
    """Many services put their key there."""
    assert without_query("https://hooks.example:8443/a/b?key=hidden#x") == "https://hooks.example:8443/a/b"
