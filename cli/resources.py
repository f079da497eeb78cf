"""What the handlers of a worker process use outside of it (provider, HTTP, mail), made from the settings."""

from config.settings import Settings, keys_of
from workers.operations.keyring import Keyring
from workers.outbound.addresses import parse_networks
from workers.outbound.http import MAX_CONNECTIONS, SafeHttp
from workers.outbound.mail import Maildir, SmtpMail, SmtpServer
from workers.runtime.handler.batches import Batches
from workers.runtime.handler.outside import Mail
from workers.runtime.handler.ports import LanguageModel
from workers.runtime.handler.resources import Resources

MAILDIR = "mail"


def make_resources(settings: Settings, *, llm: LanguageModel, batches: Batches) -> Resources:
    """Return the resources of the handlers of this process; none is opened before its first use."""
    outbound = settings.outbound
    http = SafeHttp(
        allow=parse_networks(outbound.allow),
        seconds=outbound.timeout_seconds,
        connect_seconds=outbound.connect_timeout_seconds,
        max_bytes=outbound.max_bytes,
        # Callbacks that hang must not keep a connection from others: each slot has its own.
        max_connections=max(MAX_CONNECTIONS, 2 * settings.worker.slots),
    )
    keyring = Keyring(keys_of(settings))
    return Resources(llm=llm, http=http, mail=_mail(settings), batches=batches, keyring=keyring)


def _mail(settings: Settings) -> Mail:
    """Return the configured mail server; without one, the Maildir in the data folder."""
    sender = settings.outbound.mail_from
    if settings.smtp_url is not None:
        return SmtpMail(SmtpServer.read(settings.smtp_url.get_secret_value()), sender=sender)
    return Maildir(settings.data_dir / MAILDIR, sender=sender)
