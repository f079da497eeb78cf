"""The gateway's own login, and an app whose routes check nothing."""

from collections.abc import AsyncIterator

import httpx2
import pytest
from fastapi import FastAPI

from local.logins import make_logins
from tests.support.callers import client_of, open_app


@pytest.fixture
def gateway_url(database_url, tmp_path) -> str:
    """The URL of the gateway's login on the test's database."""
    made = make_logins(database_url, tmp_path / "roles", new_passwords=True)
    return next(one.url for one in made if one.kind == "gateway")


@pytest.fixture
async def app(gateway_url: str) -> AsyncIterator[FastAPI]:
    """The app, without an issuer of tokens."""
    async with open_app(gateway_url) as app:
        yield app


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of the app."""
    async with client_of(app) as client:
        yield client
