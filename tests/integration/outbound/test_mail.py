"""Mail to a real SMTP server and into a Maildir: what arrives, and how each refusal affects a job."""

import asyncio
import email
import mailbox
import stat
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import default
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, AuthResult
from hypothesis import given
from hypothesis import strategies as st

from tests.support.fakes.certificates import self_signed
from workers.outbound.mail import Maildir, SmtpMail, SmtpServer, is_address
from workers.runtime.handler.errors import Permanent, Retryable, Unavailable
from workers.runtime.handler.outside import Letter

NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
SENDER = "Gristmill <mill@example.com>"


def letter(**changes: Any) -> Letter:
    return Letter(
        **{
            "to": "Ann Applicant <ann@example.org>",
            "subject": "Please decide: “Miller” until Friday",
            "text": "Good morning,\n\ndecide here: https://example.com/approvals/" + "x" * 100 + "\n",
            "key": "application-1:ask",
            **changes,
        }
    )


class Box:
    """Accepts letters like a server, and gives one command the answer that the test sets."""

    def __init__(self) -> None:
        self.letters: list[EmailMessage] = []
        self.envelopes: list[Any] = []
        self.encrypted: list[bool] = []
        self.says: dict[str, str] = {}

    async def handle_MAIL(self, server, session, envelope, address, options):  # noqa: N802 - aiosmtpd's names
        if said := self.says.get("MAIL"):
            return said
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 OK"

    async def handle_RCPT(self, server, session, envelope, address, options):  # noqa: N802
        if said := self.says.get("RCPT"):
            return said
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):  # noqa: N802
        if said := self.says.get("DATA"):
            return said
        self.letters.append(email.message_from_bytes(envelope.content, policy=default))
        self.envelopes.append(envelope)
        self.encrypted.append(session.ssl is not None)
        return "250 OK"


@asynccontextmanager
async def smtp_server(box: Box, **options: Any):
    """A real SMTP server on a free port of loopback; its port."""
    protocols: list[SMTP] = []

    def made() -> SMTP:
        protocols.append(SMTP(box, hostname="localhost", enable_SMTPUTF8=True, **options))
        return protocols[-1]

    server = await asyncio.get_running_loop().create_server(made, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for protocol in protocols:
            if protocol.transport:
                protocol.transport.close()
        await asyncio.sleep(0)


@pytest.fixture
def box() -> Box:
    return Box()


@pytest.fixture
async def port(box):
    async with smtp_server(box) as port:
        yield port


def smtp(port: int, *, login: str = "", scheme: str = "smtp") -> SmtpMail:
    server = SmtpServer.read(f"{scheme}://{login}127.0.0.1:{port}")
    return SmtpMail(server, sender=SENDER, now=lambda: NOW)


async def test_a_letter_arrives_as_it_was_written(box, port):
    """Sender, recipient, subject and text arrive with any characters, and automatic replies are prevented."""
    await smtp(port).send(letter(html="<p>decide</p>", reply_to="help@example.com"))

    [arrived] = box.letters
    assert arrived["From"] == SENDER
    assert arrived["To"] == "Ann Applicant <ann@example.org>"
    assert arrived["Subject"] == "Please decide: “Miller” until Friday"
    assert arrived["Reply-To"] == "help@example.com"
    assert arrived["Auto-Submitted"] == "auto-generated"
    assert arrived["Date"] == "Mon, 30 Nov 2026 12:00:00 +0000"
    plain, html = arrived.get_body(("plain",)), arrived.get_body(("html",))
    assert plain
    assert html
    assert plain.get_content().replace("\r\n", "\n") == letter().text
    assert "<p>decide</p>" in html.get_content()
    [envelope] = box.envelopes
    assert (envelope.mail_from, envelope.rcpt_tos) == ("mill@example.com", ["ann@example.org"])


async def test_the_same_letter_is_recognised_when_it_comes_twice(box, port):
    """If a worker dies after sending, the job sends again with the same Message-ID. Another letter has another one."""
    for one in (letter(), letter(), letter(key="application-2:ask")):
        await smtp(port).send(one)

    first, again, other = (one["Message-ID"] for one in box.letters)
    assert first == again != other
    assert first.endswith("@example.com>")


@pytest.mark.parametrize(
    "to",
    ["", "ann", "ann@", "@example.org", "a@example.org, b@example.org", "a@example.org\r\nBcc: c@example.org",
     "a@example.org b@example.org", "undisclosed-recipients:;"],
)  # fmt: skip
async def test_a_letter_goes_to_one_address(box, port, to):
    """Anything else is a permanent error, and nothing is sent."""
    with pytest.raises(Permanent):
        await smtp(port).send(letter(to=to))

    assert not box.letters
    assert not is_address(to)


@given(st.text(max_size=40) | st.text(alphabet='a@.<>()[]:;,\\" \r\n', max_size=20))
def test_any_text_is_an_address_or_none(text):
    """The parser of the standard library raises other errors for some text; ``is_address`` returns False."""
    assert is_address(text) in {True, False}


@pytest.mark.parametrize("subject", ["Hello\r\nBcc: eve@example.org", "Hello\nthere", "half \ud800"])
async def test_a_subject_adds_no_header(box, port, subject):
    """Subjects can contain text from users."""
    with pytest.raises(Permanent):
        await smtp(port).send(letter(subject=subject))

    assert not box.letters


async def test_an_address_with_other_letters_is_written(box, port):
    """This works if the server accepts them."""
    await smtp(port).send(letter(to="änn@exämple.org"))

    assert box.envelopes[0].rcpt_tos == ["änn@exämple.org"]


REFUSALS = {
    "an unknown recipient": ({"RCPT": "550 5.1.1 no such user"}, Permanent),
    "a recipient for later": ({"RCPT": "451 4.7.1 greylisted"}, Retryable),
    "a letter that is spam": ({"DATA": "554 5.7.1 spam"}, Permanent),
    "a letter for later": ({"DATA": "452 4.3.1 full"}, Retryable),
    "a sender nobody knows": ({"MAIL": "550 5.7.1 who are you"}, Unavailable),
    "a server with too much to do": ({"MAIL": "421 4.7.0 later"}, Unavailable),
}


@pytest.mark.parametrize(("says", "error"), REFUSALS.values(), ids=REFUSALS)
async def test_a_refusal_is_the_letters_or_the_servers(box, port, says, error):
    """A refusal is permanent, temporary, or the server's. If it is the server's, jobs wait and spend no attempt."""
    box.says = says

    with pytest.raises(error) as caught:
        await smtp(port).send(letter())

    assert type(caught.value) is error


async def test_a_server_that_is_away_is_waited_for(box):
    """The letter is not the cause."""
    async with smtp_server(box) as port:
        pass

    with pytest.raises(Unavailable, match="mail server cannot be reached"):
        await smtp(port).send(letter())


IN_THE_CLEAR = pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")


def login(server, session, envelope, mechanism, data) -> AuthResult:
    return AuthResult(success=(data.login, data.password) == (b"mill", b"p@ss"), handled=False)


@IN_THE_CLEAR
async def test_a_login_is_used(box):
    """The password contains characters that URLs escape."""
    async with smtp_server(box, authenticator=login, auth_required=True, auth_require_tls=False) as port:
        await smtp(port, login="mill:p%40ss@").send(letter())

    assert len(box.letters) == 1


@IN_THE_CLEAR
async def test_a_wrong_password_makes_jobs_wait_for_the_operator(box):
    """The jobs wait until the operator corrects it. No error contains the password."""
    async with smtp_server(box, authenticator=login, auth_required=True, auth_require_tls=False) as port:
        with pytest.raises(Unavailable, match="535") as caught:
            await smtp(port, login="mill:s3cret@").send(letter())

    assert "s3cret" not in str(caught.value)


async def test_starttls_is_used_if_the_server_offers_it(box, tmp_path, monkeypatch):
    """STARTTLS is used."""
    tls, certificate = self_signed(tmp_path, "localhost")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    server = SmtpServer.read("smtp://localhost:0")
    async with smtp_server(box, tls_context=tls) as port:
        there = SmtpServer(server.host, port, server.tls, None, None)
        await SmtpMail(there, sender=SENDER).send(letter())

    assert box.encrypted == [True]


def test_a_password_is_never_sent_in_the_clear():
    """It may be sent unencrypted to this machine; another server must offer TLS."""
    assert SmtpServer.read("smtp://u:p@mail.example.com").start_tls is True
    assert SmtpServer.read("smtp://u:p@127.0.0.1").start_tls is None
    assert SmtpServer.read("smtp://mail.example.com").start_tls is None
    assert SmtpServer.read("smtps://u:p@mail.example.com").start_tls is False


@pytest.mark.parametrize(
    ("url", "port"),
    [("smtp://h", 25), ("smtp://u:p@h", 587), ("smtps://h", 465), ("smtp://h:2525", 2525), ("smtp://[::1]:26", 26)],
)
def test_a_url_without_a_port_means_the_usual_one(url, port):
    """The port is that of relays, of submission or of TLS."""
    assert SmtpServer.read(url).port == port


@pytest.mark.parametrize("url", ["http://h", "smtp://", "mail.example.com:25", "smtp:///x"])
def test_a_url_of_no_mail_server_is_refused(url):
    """The message has an example."""
    with pytest.raises(ValueError, match="must be like smtp://"):
        SmtpServer.read(url)


async def test_without_a_server_a_letter_is_in_the_maildir(tmp_path):
    """It is complete, only its owner can read it, and any mail program understands it."""
    folder = tmp_path / "data" / "mail"

    await Maildir(folder, sender=SENDER).send(letter())

    [arrived] = mailbox.Maildir(folder, create=False)
    assert arrived["Subject"]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert len(list((folder / "new").iterdir())) == 1
    assert not list((folder / "tmp").iterdir())


async def test_letters_sent_at_once_are_all_in_the_maildir(tmp_path):
    """Fifty jobs send at once, and every letter is stored."""
    maildir = Maildir(tmp_path / "mail", sender=SENDER)

    await asyncio.gather(*(maildir.send(letter(key=f"{n}")) for n in range(50)))

    assert len(mailbox.Maildir(tmp_path / "mail", create=False)) == 50


async def test_a_maildir_that_cannot_be_written_is_tried_again(tmp_path):
    """The folder's path is a file."""
    (tmp_path / "mail").write_text("")

    with pytest.raises(Retryable, match="mail cannot be written"):
        await Maildir(tmp_path / "mail", sender=SENDER).send(letter())


async def test_a_letter_that_cannot_be_written_is_in_no_maildir(tmp_path):
    """The rules are the same as for a server."""
    with pytest.raises(Permanent):
        await Maildir(tmp_path / "mail", sender=SENDER).send(letter(subject="a\nb"))

    assert not (tmp_path / "mail").exists()
