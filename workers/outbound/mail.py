"""Mail to people: over SMTP, or into a Maildir where no server is configured."""

import asyncio
import hashlib
import mailbox
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.errors import MessageError, NonASCIILocalPartDefect
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import unquote, urlsplit

import aiosmtplib

from workers.runtime.handler.errors import Permanent, Retryable, Unavailable
from workers.runtime.handler.outside import Letter

SECONDS = 30.0
# Mail servers end the connections of a client that opens too many.
CONNECTIONS = 8
PORT, PORT_WITH_PASSWORD, PORT_OF_TLS = 25, 587, 465
PERMANENT_CODE = 500
# What the parser of addresses raises for text that is no address; some of it by accident.
UNREADABLE = (ValueError, LookupError, AttributeError, MessageError)


@dataclass(frozen=True, slots=True)
class SmtpServer:
    """A mail server, as ``smtp://user:password@host:port`` or ``smtps://…`` names it.

    ``smtps`` is TLS from the first byte. ``smtp`` turns to TLS where the server offers it; a password is sent over TLS
    only, except to this machine.
    """

    host: str
    port: int
    tls: bool
    user: str | None
    password: str | None

    @classmethod
    def read(cls, url: str) -> "SmtpServer":
        """Return the server that ``url`` names; raise ValueError with the rule that it breaks."""
        parts = urlsplit(url)
        if parts.scheme not in {"smtp", "smtps"} or not parts.hostname:
            raise ValueError("must be like smtp://host:587 or smtps://host")
        user = unquote(parts.username) if parts.username else None
        usual = PORT_OF_TLS if parts.scheme == "smtps" else PORT_WITH_PASSWORD if user else PORT
        password = unquote(parts.password) if parts.password else None
        return cls(parts.hostname, parts.port or usual, parts.scheme == "smtps", user, password)

    @property
    def start_tls(self) -> bool | None:
        """Whether the line must turn to TLS; None: where the server offers it."""
        return False if self.tls else True if self.user and not _is_loopback(self.host) else None


class SmtpMail:
    """Hands letters to a mail server, one connection each."""

    def __init__(
        self, server: SmtpServer, *, sender: str, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._server, self._sender, self._now = server, sender, now
        self._connections = asyncio.Semaphore(CONNECTIONS)

    async def send(self, letter: Letter) -> None:
        """Hand the letter over; see :class:`Mail` for what is raised."""
        message = composed(letter, sender=self._sender, at=self._now())
        server = self._server
        try:
            async with self._connections, asyncio.timeout(SECONDS):
                await aiosmtplib.send(
                    message,
                    sender=_one_address(message, "From").addr_spec,
                    recipients=[_one_address(message, "To").addr_spec],
                    hostname=server.host,
                    port=server.port,
                    username=server.user,
                    password=server.password,
                    use_tls=server.tls,
                    start_tls=server.start_tls,
                    timeout=SECONDS,
                )
        except (aiosmtplib.SMTPException, OSError, ValueError) as error:
            raise _meaning(error) from None

    async def aclose(self) -> None:
        """Nothing is kept open."""


class Maildir:
    """Puts letters into the Maildir ``folder``, which any mail program reads. Made with the first letter."""

    def __init__(self, folder: Path, *, sender: str, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._folder, self._sender, self._now = folder, sender, now
        self._adding = asyncio.Lock()

    async def send(self, letter: Letter) -> None:
        """Put the letter into ``new/``; nobody sees a part of it."""
        message = composed(letter, sender=self._sender, at=self._now())
        try:
            async with self._adding:
                await asyncio.to_thread(self._add, message)
        except (OSError, mailbox.Error) as error:
            raise Retryable(f"mail cannot be written to {self._folder} ({error})") from None

    def _add(self, message: EmailMessage) -> None:
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        mailbox.Maildir(self._folder).add(message)

    async def aclose(self) -> None:
        """Nothing is kept open."""


def composed(letter: Letter, *, sender: str, at: datetime) -> EmailMessage:
    """Return the letter as a message; raise Permanent for one that cannot be sent to anybody."""
    message = EmailMessage(policy=SMTP)
    try:
        message["From"] = sender
        message["To"] = letter.to
        if letter.reply_to:
            message["Reply-To"] = letter.reply_to
        message["Subject"] = letter.subject
        to, origin = _one_address(message, "To"), _one_address(message, "From")
        message["Date"] = format_datetime(at)
        message["Message-ID"] = f"<{hashlib.sha256(letter.key.encode()).hexdigest()[:32]}@{origin.domain}>"
        message["Auto-Submitted"] = "auto-generated"  # no out-of-office reply comes back
        message.set_content(letter.text)
        if letter.html:
            message.add_alternative(letter.html, subtype="html")
    except UNREADABLE as error:
        raise Permanent(f"letter {letter.key!r} cannot be written: {error}") from None
    if not (to.username and to.domain):
        raise Permanent(f"letter {letter.key!r} must go to an address like name@example.com")
    return message


def is_address(text: str) -> bool:
    """Tell whether ``text`` is one mail address, with or without a name before it."""
    message = EmailMessage(policy=SMTP)
    try:
        message["To"] = text
        address = _one_address(message, "To")
    except UNREADABLE:
        return False
    return bool(address.username and address.domain)


def _one_address(message: EmailMessage, header: str) -> Address:
    """Return the only address of a header; raise ValueError where there are more or none."""
    found = message[header]
    defects = [one for one in found.defects if not isinstance(one, NonASCIILocalPartDefect)]
    if defects or len(found.addresses) != 1:
        raise ValueError(f"{header} must be one address")
    address: Address = found.addresses[0]
    return address


def _meaning(error: Exception) -> Exception:
    """Return what an attempt that failed means: for the letter, or for every letter as long as the server is so."""
    match error:
        case aiosmtplib.SMTPRecipientsRefused(recipients=[aiosmtplib.SMTPRecipientRefused() as refused, *_]):
            return _refused("recipient", refused)
        case aiosmtplib.SMTPDataError():
            return _refused("letter", error)
        case aiosmtplib.SMTPResponseException(code=code):
            return Unavailable(f"mail server answered {code} to {type(error).__name__.removeprefix('SMTP')}")
        case aiosmtplib.SMTPNotSupported() | ValueError():
            return Permanent(f"mail server cannot take the letter ({error})")
        case _:
            return Unavailable(f"mail server cannot be reached ({type(error).__name__})", certain=True)


def _refused(what: str, error: aiosmtplib.SMTPResponseException) -> Exception:
    said = f"mail server refused the {what}: {error.code} {error.message}"
    return Permanent(said) if error.code >= PERMANENT_CODE else Retryable(said)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
