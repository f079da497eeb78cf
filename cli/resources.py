"""What the handlers of a worker process use outside of it (provider, HTTP, mail), made from the settings."""

from config.settings import Settings
from workers.outbound.addresses import parse_networks
from workers.outbound.http import SafeHttp
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
    )
    return Resources(llm=llm, http=http, mail=_mail(settings), batches=batches)


def _mail(settings: Settings) -> Mail:
    """Return the configured mail server; without one, the Maildir in the data folder."""
    sender = settings.outbound.mail_from
    if settings.smtp_url is not None:
        return SmtpMail(SmtpServer.read(settings.smtp_url.get_secret_value()), sender=sender)
    return Maildir(settings.data_dir / MAILDIR, sender=sender)
