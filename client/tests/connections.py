"""One way to call the sync functions over each kind of connection. Each opens a transaction that the test ends."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.rows import dict_row
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.pool import NullPool

Execute = Callable[[str], None]


class RolledBack(Exception):
    """Ends a transaction of a test without a commit."""


@contextmanager
def by_psycopg(url: str) -> Iterator[tuple[Any, Execute]]:
    with psycopg.connect(url) as connection:
        yield connection, lambda statement: connection.execute(statement) and None


@contextmanager
def by_psycopg_with_dicts(url: str) -> Iterator[tuple[Any, Execute]]:
    with psycopg.connect(url, row_factory=dict_row, autocommit=True) as connection, connection.transaction():
        yield connection, lambda statement: connection.execute(statement) and None


class OnlyDbApi:
    """What any driver of DB-API 2 has."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self.cursor, self.commit, self.rollback = connection.cursor, connection.commit, connection.rollback


@contextmanager
def by_db_api(url: str) -> Iterator[tuple[Any, Execute]]:
    with psycopg.connect(url) as connection:
        yield OnlyDbApi(connection), lambda statement: connection.execute(statement) and None


def _engine(url: str) -> Any:
    info = psycopg.conninfo.conninfo_to_dict(url)
    return create_engine("postgresql+psycopg://", connect_args=info, poolclass=NullPool)


@contextmanager
def by_session(url: str) -> Iterator[tuple[Any, Execute]]:
    with Session(_engine(url)) as session, session.begin():
        yield session, lambda statement: session.execute(text(statement)) and None


@contextmanager
def by_scoped_session(url: str) -> Iterator[tuple[Any, Execute]]:
    session = scoped_session(sessionmaker(_engine(url)))
    with session.begin():
        yield session, lambda statement: session.execute(text(statement)) and None
    session.remove()


@contextmanager
def by_connection(url: str) -> Iterator[tuple[Any, Execute]]:
    with _engine(url).connect() as connection, connection.begin():
        yield connection, lambda statement: connection.execute(text(statement)) and None


def django_connection(url: str) -> Any:
    """Return Django's connection to ``url``."""
    import django
    from django.conf import settings
    from django.db import connections

    info = psycopg.conninfo.conninfo_to_dict(url)
    names = {"dbname": "NAME", "user": "USER", "password": "PASSWORD", "host": "HOST", "port": "PORT"}
    database = {"ENGINE": "django.db.backends.postgresql", **{names[k]: str(v) for k, v in info.items() if k in names}}
    if not settings.configured:
        settings.configure(DATABASES={"default": database}, USE_TZ=True)
        django.setup()
    return connections["default"]


@contextmanager
def by_django(url: str) -> Iterator[tuple[Any, Execute]]:
    connection = django_connection(url)
    from django.db import transaction

    def execute(statement: str) -> None:
        with connection.cursor() as cursor:
            cursor.execute(statement)

    try:
        with transaction.atomic():
            yield connection, execute
    finally:
        connection.close()


WAYS = [by_psycopg, by_psycopg_with_dicts, by_db_api, by_session, by_scoped_session, by_connection, by_django]
