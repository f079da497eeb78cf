"""The outside world of handlers, as one value that the worker role makes at its start.

A new resource is one field here, and one argument where the value is made (``cli/resources.py``).
"""

from dataclasses import dataclass
from typing import NoReturn

from workers.runtime.handler.batches import Batches
from workers.runtime.handler.errors import Permanent
from workers.runtime.handler.outside import Http, HttpAnswer, Keyring, Letter, Mail, Request
from workers.runtime.handler.ports import LanguageModel


class NoHttp:
    """HTTP for a process that makes no HTTP calls."""

    async def send(self, request: Request) -> HttpAnswer:
        """Refuse every request."""
        raise Permanent(f"this process makes no HTTP calls, got a {request.method}")

    async def aclose(self) -> None:
        """Nothing is open."""


class NoMail:
    """Mail for a process that sends no mail."""

    async def send(self, letter: Letter) -> None:
        """Refuse every letter."""
        raise Permanent(f"this process sends no mail, got the letter {letter.key!r}")

    async def aclose(self) -> None:
        """Nothing is open."""


class NoBatches:
    """The batch lane of a process that sends no batches."""

    def __getattr__(self, name: str) -> NoReturn:
        """Refuse every use."""
        raise Permanent(f"this process sends no batches, got {name!r}")

    async def aclose(self) -> None:
        """Nothing is open."""


class NoKeyring:
    """The secrets of a process that has no key."""

    def encrypt(self, secret: str) -> str:  # noqa: ARG002 - the interface's signature
        """Refuse to encrypt."""
        raise Permanent("this process has no key for stored secrets")

    def decrypt(self, token: str) -> str:  # noqa: ARG002
        """Refuse to decrypt."""
        raise Permanent("this process has no key for stored secrets")

    def rotate(self, token: str) -> str:  # noqa: ARG002
        """Refuse to encrypt again."""
        raise Permanent("this process has no key for stored secrets")


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """The outside world of one process; all of its runs share it."""

    llm: LanguageModel
    http: Http = NoHttp()  # noqa: RUF009 - it holds nothing
    mail: Mail = NoMail()  # noqa: RUF009
    batches: Batches = NoBatches()  # noqa: RUF009
    keyring: Keyring = NoKeyring()  # noqa: RUF009

    async def aclose(self) -> None:
        """Release the connections of every resource, even if one of them fails."""
        errors = []
        for close in (self.llm.aclose, self.http.aclose, self.mail.aclose, self.batches.aclose):
            try:
                await close()
            except Exception as error:  # noqa: BLE001 - all errors are raised together
                errors.append(error)
        if errors:
            raise ExceptionGroup("resources were not released", errors)
