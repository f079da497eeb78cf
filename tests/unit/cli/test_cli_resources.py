"""The resources of a worker follow from its settings."""

import pytest

from cli.resources import make_resources
from config.settings import load
from tests.support.proving.llm import NoModel
from workers.outbound.http import SafeHttp
from workers.outbound.mail import Maildir, SmtpMail
from workers.runtime.handler.resources import NoBatches


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


async def test_without_settings_mail_goes_into_the_data_folder(tmp_path):
    """HTTP calls reach only public addresses."""
    made = make_resources(load(data_dir=tmp_path), llm=NoModel(), batches=NoBatches())

    assert isinstance(made.mail, Maildir)
    assert isinstance(made.http, SafeHttp)
    await made.aclose()


async def test_a_mail_server_of_the_environment_is_used(monkeypatch):
    """The password comes from the URL."""
    monkeypatch.setenv("SMTP_URL", "smtp://mill:p%40ss@mail.example.com")
    monkeypatch.setenv("GRISTMILL_OUTBOUND__ALLOW", "127.0.0.0/8, fd00::/8")

    made = make_resources(load(), llm=NoModel(), batches=NoBatches())

    assert isinstance(made.mail, SmtpMail)
    await made.aclose()
