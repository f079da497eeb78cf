"""HTTP to a real server on loopback: what is sent, what is refused before sending, and the limits."""

import asyncio
import gzip
import random
import zlib

import pytest

from tests.support.fakes.certificates import self_signed
from tests.support.fakes.web_server import WebServer, web_server
from workers.outbound.addresses import parse_networks
from workers.outbound.destinations import look_up
from workers.outbound.http import MAX_CONNECTIONS, USER_AGENT, SafeHttp
from workers.runtime.handler.errors import Permanent, Retryable
from workers.runtime.handler.outside import ForbiddenDestination, Request

LOOPBACK = parse_networks(["127.0.0.0/8"])


@pytest.fixture
async def web():
    async with web_server() as web:
        yield web


@pytest.fixture
async def make_http():
    """Create clients, and close them after the test."""
    made: list[SafeHttp] = []

    def make(**options) -> SafeHttp:
        made.append(SafeHttp(**{"allow": LOOPBACK, **options}))
        return made[-1]

    yield make
    for http in made:
        await http.aclose()


@pytest.fixture
def http(make_http):
    return make_http()


class Names:
    """Resolves to the test's answers in order, repeats the last one, and counts the calls."""

    def __init__(self, *answers: tuple[str, ...]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int):
        self.asked.append(host)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


# ── what is sent and what comes back ────────────────────────────────────────────────────────────────────────────────


async def test_a_post_is_sent_as_it_is_and_answered(web: WebServer, http):
    """Method, headers and body are sent; status, headers, body and the called address are returned."""
    web.say("/hook?x=1", b"fine", status=202, X_One="1")

    answer = await http.send(
        Request(url=web.url("/hook?x=1#part"), method="POST", headers={"X-Key": "k"}, body=b'{"a": 1}')
    )

    [seen] = web.seen
    assert (seen.method, seen.target, seen.body) == ("POST", "/hook?x=1", b'{"a": 1}')
    assert seen.headers["x-key"] == "k"
    assert seen.headers["user-agent"] == USER_AGENT
    assert seen.headers["host"] == f"127.0.0.1:{web.port}"
    assert (answer.status, answer.body, answer.headers["x-one"]) == (202, b"fine", "1")
    assert answer.address == "127.0.0.1"


async def test_a_post_without_a_body_says_so(web: WebServer, http):
    """Some servers wait forever without a length."""
    web.say("/")

    await http.send(Request(url=web.url(), method="POST"))

    assert web.seen[0].headers["content-length"] == "0"


@pytest.mark.parametrize("status", [301, 404, 410, 429, 500])
async def test_a_status_is_the_callers_to_judge(web: WebServer, http, status):
    """No status is an error, and a redirect is followed only on request."""
    web.say("/", status=status, Location="/other", Retry_After="7")

    answer = await http.send(Request(url=web.url()))

    assert (answer.status, answer.headers["retry-after"]) == (status, "7")
    assert len(web.seen) == 1


async def test_a_connection_is_used_again(web: WebServer, http):
    """Two calls to one server use one connection, which is checked once."""
    web.say("/")

    await http.send(Request(url=web.url()))
    await http.send(Request(url=web.url()))

    assert web.connections == 1


async def test_a_compressed_answer_is_decompressed(web: WebServer, http):
    """Large answers are often compressed."""
    web.say("/", gzip.compress(b"text " * 1_000), Content_Encoding="gzip")

    answer = await http.send(Request(url=web.url()))

    assert answer.body == b"text " * 1_000


# ── the guard ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "127.1", "0x7f000001", "2130706433", "0177.0.0.1", "127。0。0。1", "[::ffff:7f00:1]"],
)
async def test_loopback_is_not_called_however_it_is_written(web: WebServer, make_http, host):
    """Without a list that admits it, nothing is sent."""
    web.say("/")

    with pytest.raises(ForbiddenDestination, match=r"loopback|cannot be read"):
        await make_http(allow=()).send(Request(url=web.url(host=host)))

    assert web.connections == 0


async def test_the_checked_address_is_the_one_that_is_called(web: WebServer, make_http):
    """The name is resolved once, so a later answer with an inside address is never used."""
    web.say("/")
    names = Names(("127.0.0.1",), ("10.0.0.1",))

    answer = await make_http(resolve=names).send(Request(url=web.url(host="rebinding.example")))

    assert names.asked == ["rebinding.example"]
    assert answer.address == "127.0.0.1"
    assert web.seen[0].headers["host"] == f"rebinding.example:{web.port}"


async def test_a_name_that_later_resolves_inside_is_refused_then(web: WebServer, make_http):
    """Each new connection is checked again."""

    async def answer(seen, writer):
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")

    web.answers["/"] = answer
    http = make_http(resolve=Names(("127.0.0.1",), ("10.0.0.1",)))
    await http.send(Request(url=web.url(host="rebinding.example")))

    with pytest.raises(ForbiddenDestination, match="private"):
        await http.send(Request(url=web.url(host="rebinding.example")))


async def test_a_name_with_an_address_inside_is_refused_whole(web: WebServer, make_http):
    """This also holds if another address of the name is allowed."""
    web.say("/")

    with pytest.raises(ForbiddenDestination):
        await make_http(resolve=Names(("127.0.0.1", "10.0.0.1"))).send(Request(url=web.url(host="both.example")))

    assert web.connections == 0


async def test_the_next_address_is_tried_where_one_does_not_answer(web: WebServer, make_http):
    """All addresses were checked."""
    web.say("/")

    answer = await make_http(resolve=Names(("127.0.0.9", "127.0.0.1"))).send(Request(url=web.url(host="two.example")))

    assert answer.address == "127.0.0.1"


async def test_refused_and_late_calls_leave_the_pool_free(web: WebServer, make_http):
    """There are more of them than connections."""
    web.say("/")

    async def never(_seen, _writer):
        await asyncio.Event().wait()

    web.answers["/slow"] = never
    names = Names(("10.0.0.1",))
    http = make_http(resolve=lambda host, port: names(host, port) if host == "inside.example" else look_up(host, port))
    inside = [http.send(Request(url=web.url(host="inside.example"))) for _ in range(MAX_CONNECTIONS + 10)]
    late = [http.send(Request(url=web.url("/slow"), seconds=0.2)) for _ in range(MAX_CONNECTIONS + 10)]

    refused = await asyncio.gather(*inside, return_exceptions=True)
    too_late = await asyncio.gather(*late, return_exceptions=True)

    assert {type(one) for one in refused} == {ForbiddenDestination}
    assert {type(one) for one in too_late} == {Retryable}
    assert (await http.send(Request(url=web.url()))).status == 200


async def test_no_proxy_of_the_environment_is_used(web: WebServer, make_http, monkeypatch):
    """A proxy would resolve the name itself, without the check."""
    web.say("/")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")

    assert (await make_http().send(Request(url=web.url()))).status == 200


@pytest.mark.parametrize("name", ["Host", "Content-Length", "Transfer-Encoding", "Proxy-Authorization", "X\r\nY", "ä"])
async def test_a_header_that_changes_the_message_itself_is_refused(web: WebServer, http, name):
    """Such a header could change the host or hide a second request."""
    with pytest.raises(Permanent, match="must not be set"):
        await http.send(Request(url=web.url(), headers={name: "1"}))

    assert web.connections == 0


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "\x00", "€"])
async def test_a_header_of_several_lines_is_refused(web: WebServer, http, value):
    """Header values can come from users' forms."""
    with pytest.raises(Permanent, match="one line of Latin-1") as caught:
        await http.send(Request(url=web.url(), headers={"Authorization": value}))

    assert "Evil" not in str(caught.value)


@pytest.mark.parametrize(("host", "trusted"), [("secure.example", True), ("other.example", False)])
async def test_a_certificate_must_be_for_the_name_and_not_for_the_address(
    make_http, tmp_path, monkeypatch, host, trusted
):
    """The connection goes to the checked address, and the certificate must match the name."""
    tls, certificate = self_signed(tmp_path, "secure.example")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    async with web_server(tls=tls) as web:
        web.say("/", b"safe")
        sending = make_http(resolve=Names(("127.0.0.1",))).send(Request(url=web.url(host=host)))
        if trusted:
            assert (await sending).body == b"safe"
        else:
            with pytest.raises(Retryable, match="cannot be reached"):
                await sending


# ── redirects ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_redirect_is_followed_where_it_is_wanted(web: WebServer, http):
    """The answer has the final URL."""
    web.say("/old", status=301, Location="/new")
    web.say("/new", b"here")

    answer = await http.send(Request(url=web.url("/old"), redirects=3))

    assert (answer.status, answer.body, answer.url) == (200, b"here", web.url("/new"))


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("http://10.0.0.1/", "private"),
        ("http://169.254.169.254/latest/meta-data/", "metadata"),
        ("http://user:pw@127.0.0.1/", "user or a password"),
        ("file:///etc/passwd", "must start with http"),
        ("//[::1]/", "loopback"),
        ("http://127.0.0.1:22/", "port 22"),
    ],
)
async def test_a_redirect_is_judged_like_the_first_address(web: WebServer, http, location, said):
    """A public server may redirect to an inside address."""
    web.say("/", status=302, Location=location)

    with pytest.raises(ForbiddenDestination, match=said):
        await http.send(Request(url=web.url(), redirects=3))


async def test_a_secret_is_not_sent_to_another_origin(web: WebServer, http):
    """It is sent within one origin. `Accept` is not a secret."""
    async with web_server() as other:
        web.say("/", status=302, Location="/same")
        web.say("/same", status=302, Location=other.url("/other"))
        other.say("/other")

        await http.send(
            Request(url=web.url(), headers={"Authorization": "t", "X-Key": "k", "Accept": "a/b"}, redirects=3)
        )

    assert [seen.headers.get("authorization") for seen in web.seen] == ["t", "t"]
    [seen] = other.seen
    assert not {"authorization", "x-key"} & seen.headers.keys()
    assert seen.headers["accept"] == "a/b"


async def test_redirects_come_to_an_end(web: WebServer, http):
    """A loop of redirects is an error."""
    web.say("/", status=302, Location="/")

    with pytest.raises(Permanent, match="redirected more than 3 times"):
        await http.send(Request(url=web.url(), redirects=3))

    assert len(web.seen) == 4


async def test_a_post_is_never_sent_on(web: WebServer, http):
    """Its body is meant for one receiver only."""
    web.say("/", status=307, Location="/other")

    answer = await http.send(Request(url=web.url(), method="POST", body=b"{}"))

    assert (answer.status, len(web.seen)) == (307, 1)


# ── bounds ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_body_that_is_too_large_is_not_read_to_its_end(web: WebServer, make_http):
    """The received bytes are counted, not the header. The error is permanent."""

    async def answer(seen, writer):
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"4000\r\n" + b"x" * 0x4000 + b"\r\n")
            await writer.drain()

    web.answers["/"] = answer

    with pytest.raises(Permanent, match="more than 100,000 bytes"):
        await asyncio.wait_for(make_http(max_bytes=100_000).send(Request(url=web.url())), 20)


async def test_a_gzip_bomb_is_not_decompressed(web: WebServer, make_http):
    """A hundred megabytes of zeros are a hundred kilobytes of gzip."""
    packer = zlib.compressobj(wbits=31)
    bomb = b"".join(packer.compress(bytes(1_000_000)) for _ in range(100)) + packer.flush()
    web.say("/", bomb, Content_Encoding="gzip")

    with pytest.raises(Permanent, match="more than 1,000,000 bytes"):
        await make_http(max_bytes=1_000_000).send(Request(url=web.url()))


async def test_a_body_of_just_the_limit_is_read(web: WebServer, http):
    """This holds for compressed and uncompressed bodies."""
    web.say("/plain", b"x" * 1_000)
    web.say("/packed", gzip.compress(b"x" * 1_000), Content_Encoding="gzip")
    web.say("/random", gzip.compress(random.randbytes(1_000)), Content_Encoding="gzip")

    for path in ("/plain", "/packed", "/random"):
        answer = await http.send(Request(url=web.url(path), max_bytes=1_000))
        assert len(answer.body) == 1_000


@pytest.mark.parametrize("body", [b"not packed", gzip.compress(b"x" * 100)[:-12]], ids=["plain", "cut"])
async def test_a_body_that_cannot_be_decompressed_is_retryable(web: WebServer, http, body):
    """The error is retryable, because the server may have had an error."""
    web.say("/", body, Content_Encoding="gzip")

    with pytest.raises(Retryable):
        await http.send(Request(url=web.url()))


async def test_an_encoding_that_was_not_asked_for_is_refused(web: WebServer, http):
    """The size of such a body could not be limited."""
    web.say("/", b"x", Content_Encoding="br")

    with pytest.raises(Permanent, match="'br'"):
        await http.send(Request(url=web.url()))


async def test_a_server_that_answers_byte_by_byte_is_left(web: WebServer, http):
    """The timeout covers the whole call, not one read."""

    async def answer(seen, writer):
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.02)

    web.answers["/"] = answer

    with pytest.raises(Retryable, match="did not answer in time"):
        await http.send(Request(url=web.url(), seconds=0.3))


async def test_a_name_that_takes_for_ever_is_left(make_http):
    """The timeout includes the lookup."""

    async def never(host: str, port: int):
        await asyncio.Event().wait()
        return ()

    with pytest.raises(Retryable, match="did not answer in time"):
        await make_http(resolve=never).send(Request(url="http://slow.example/t0ken", seconds=0.2))


async def test_a_server_that_is_not_there_may_be_there_later(make_http, unused_tcp_port_of_loopback):
    """The error is one line with the server and without the path."""
    with pytest.raises(Retryable, match="cannot be reached") as caught:
        await make_http().send(Request(url=f"http://127.0.0.1:{unused_tcp_port_of_loopback}/t0ken?key=s3cret"))

    assert "t0ken" not in str(caught.value)
    assert "s3cret" not in str(caught.value)


async def test_a_connection_that_breaks_is_retryable(web: WebServer, http):
    """The connection ends in the headers or in the body."""

    async def answer(seen, writer):
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc")
        await writer.drain()
        writer.close()

    web.answers["/"] = answer

    with pytest.raises(Retryable):
        await http.send(Request(url=web.url()))


@pytest.fixture
async def unused_tcp_port_of_loopback() -> int:
    """A port that was free just now."""
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port: int = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    return port


# ── a body that is cut ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_body_that_may_be_cut_is_cut_and_not_decoded(web: WebServer, http):
    """Whoever decides by the status needs only its start, whatever it is."""
    packed = gzip.compress(b"x" * 10_000)
    web.say("/long", b"y" * 100_000)
    web.say("/packed", packed, content_encoding="gzip")
    web.say("/foreign", b"\x0b\x02", content_encoding="br")

    for path, start in (("/long", b"y" * 16), ("/packed", packed[:16]), ("/foreign", b"\x0b\x02")):
        assert (await http.send(Request(url=web.url(path), max_bytes=16, cuts_body=True))).body == start


async def test_a_body_that_may_be_cut_is_not_waited_for(web: WebServer, http):
    """The status is known; a body that breaks off or never comes changes nothing."""

    async def half(_seen, writer):
        writer.write(b"HTTP/1.1 202 Said\r\ncontent-length: 10\r\n\r\nhalf")
        await writer.drain()
        writer.close()

    async def never(_seen, writer):
        writer.write(b"HTTP/1.1 202 Said\r\ncontent-length: 10\r\n\r\n")
        await writer.drain()
        await asyncio.Event().wait()

    web.answers |= {"/half": half, "/never": never}
    for path, body in (("/half", b"half"), ("/never", b"")):
        answer = await http.send(Request(url=web.url(path), seconds=20, cuts_body=True))
        assert (answer.status, answer.body) == (202, body)
