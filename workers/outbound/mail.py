"""Send mail to people: over SMTP, or into a Maildir if no server is configured."""

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

SMTP_SECONDS = 30.0
# Mail servers reject a client that opens too many connections.
MAX_SMTP_CONNECTIONS = 8
PORT, PORT_WITH_PASSWORD, PORT_OF_TLS = 25, 587, 465
PERMANENT_CODE = 500
# The errors that the parser of addresses raises for invalid text, including its own bugs.
ADDRESS_ERRORS = (ValueError, LookupError, AttributeError, MessageError)


@dataclass(frozen=True, slots=True)
class SmtpServer:
    """A mail server, from a URL like ``smtp://user:password@host:port`` or ``smtps://…``.

    ``smtps`` uses TLS from the start. ``smtp`` uses STARTTLS if the server offers it. A password is only sent over TLS,
    except to this machine.
    """

    host: str
    port: int
    tls: bool
    user: str | None
    password: str | None

    @classmethod
    def read(cls, url: str) -> "SmtpServer":
        """Return the server of ``url``; raise ValueError with the rule that the URL breaks."""
        parts = urlsplit(url)
        if parts.scheme not in {"smtp", "smtps"} or not parts.hostname:
            raise ValueError("must be like smtp://host:587 or smtps://host")
        user = unquote(parts.username) if parts.username else None
        usual = PORT_OF_TLS if parts.scheme == "smtps" else PORT_WITH_PASSWORD if user else PORT
        password = unquote(parts.password) if parts.password else None
        return cls(parts.hostname, parts.port or usual, parts.scheme == "smtps", user, password)

    @property
    def start_tls(self) -> bool | None:
        """Whether STARTTLS is required; None means: use it if the server offers it."""
        return False if self.tls else True if self.user and not _is_loopback(self.host) else None


class SmtpMail:
    """Sends letters to a mail server, one connection per letter."""

    def __init__(
        self, server: SmtpServer, *, sender: str, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._server, self._sender, self._now = server, sender, now
        self._connections = asyncio.Semaphore(MAX_SMTP_CONNECTIONS)

    async def send(self, letter: Letter) -> None:
        """Send the letter; raise as :class:`Mail` says."""
        message = compose_message(letter, sender=self._sender, at=self._now())
        server = self._server
        try:
            async with self._connections, asyncio.timeout(SMTP_SECONDS):
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
                    timeout=SMTP_SECONDS,
                )
        except (aiosmtplib.SMTPException, OSError, ValueError) as error:
            raise _classify(error) from None

    async def aclose(self) -> None:
        """Do nothing: no connection stays open."""


class Maildir:
    """Writes letters into the Maildir ``folder``, which mail programs can read. The first letter creates it."""

    def __init__(self, folder: Path, *, sender: str, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._folder, self._sender, self._now = folder, sender, now
        self._adding = asyncio.Lock()

    async def send(self, letter: Letter) -> None:
        """Write the letter into ``new/`` atomically."""
        message = compose_message(letter, sender=self._sender, at=self._now())
        try:
            async with self._adding:
                await asyncio.to_thread(self._add, message)
        except (OSError, mailbox.Error) as error:
            raise Retryable(f"mail cannot be written to {self._folder} ({error})") from None

    def _add(self, message: EmailMessage) -> None:
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        mailbox.Maildir(self._folder).add(message)

    async def aclose(self) -> None:
        """Do nothing: no connection stays open."""


def compose_message(letter: Letter, *, sender: str, at: datetime) -> EmailMessage:
    """Return the letter as a message; raise Permanent if it cannot be sent."""
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
        message["Auto-Submitted"] = "auto-generated"  # prevents out-of-office replies
        message.set_content(letter.text)
        if letter.html:
            message.add_alternative(letter.html, subtype="html")
    except ADDRESS_ERRORS as error:
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
    except ADDRESS_ERRORS:
        return False
    return bool(address.username and address.domain)


def _one_address(message: EmailMessage, header: str) -> Address:
    """Return the only address of a header; raise ValueError if there are more or none."""
    found = message[header]
    defects = [one for one in found.defects if not isinstance(one, NonASCIILocalPartDefect)]
    if defects or len(found.addresses) != 1:
        raise ValueError(f"{header} must be one address")
    address: Address = found.addresses[0]
    return address


def _classify(error: Exception) -> Exception:
    """Return the error to raise: Permanent or Retryable for this letter, Unavailable if the server fails all."""
    match error:
        case aiosmtplib.SMTPRecipientsRefused(recipients=[aiosmtplib.SMTPRecipientRefused() as refused, *_]):
            return _refusal_error("recipient", refused)
        case aiosmtplib.SMTPDataError():
            return _refusal_error("letter", error)
        case aiosmtplib.SMTPResponseException(code=code):
            return Unavailable(f"mail server answered {code} to {type(error).__name__.removeprefix('SMTP')}")
        case aiosmtplib.SMTPNotSupported() | ValueError():
            return Permanent(f"mail server cannot take the letter ({error})")
        case _:
            return Unavailable(f"mail server cannot be reached ({type(error).__name__})", certain=True)


def _refusal_error(what: str, error: aiosmtplib.SMTPResponseException) -> Exception:
    said = f"mail server refused the {what}: {error.code} {error.message}"
    return Permanent(said) if error.code >= PERMANENT_CODE else Retryable(said)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
