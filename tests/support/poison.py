"""Values that Postgres can store and Python cannot read. Older tables accepted them from psql."""

from typing import Any, NamedTuple

import psycopg
from psycopg import sql


class Poison(NamedTuple):
    """One kind: the column, the value as SQL, and the message about a job that has it."""

    column: str
    value: str
    said: str


TIME = "cannot be read: a time must be finite and within the years 1 to 9999"
POISONS = {
    "digits": Poison(
        "result",
        """('{"n": 1' || repeat('0', 5000) || '}')::jsonb""",
        "result cannot be read: its JSON has a number of more than 4,300 digits",
    ),
    "exponent": Poison(
        "result", """'{"n": 1e5000}'::jsonb""", "result cannot be read: its JSON has a number of more than 4,300 digits"
    ),
    "deep": Poison(
        "result",
        "(repeat('[', 5000) || repeat(']', 5000))::jsonb",
        "result cannot be read: its JSON is nested too deeply",
    ),
    "endless": Poison("created_at", "'infinity'", f"created_at {TIME}"),
    "beginless": Poison("created_at", "'-infinity'", f"created_at {TIME}"),
    "far": Poison("created_at", "'20000-01-01 00:00+00'", f"created_at {TIME}"),
    "ancient": Poison("created_at", "'0044-03-15 12:00+00 BC'", f"created_at {TIME}"),
}


def without_checks(connection: "psycopg.Connection[Any]", table: str, *columns: str) -> None:
    """Drop the table's CHECKs of these columns, like in an older release."""
    names = connection.execute(
        """SELECT c.conname FROM pg_constraint AS c
            WHERE c.conrelid = %s::regclass AND c.contype = 'c' AND EXISTS (
              SELECT FROM unnest(c.conkey) AS k JOIN pg_attribute AS a ON a.attrelid = c.conrelid AND a.attnum = k
               WHERE a.attname = ANY (%s))""",
        [table, list(columns)],
    ).fetchall()
    for row in names:
        name = row["conname"] if isinstance(row, dict) else row[0]
        connection.execute(sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(sql.SQL(table), sql.Identifier(name)))
