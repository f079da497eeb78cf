"""Rows of operations, for tests of its schema."""

import uuid


def one(psql, statement: str, *values: object):
    [row] = psql.execute(statement, values).fetchall()
    return next(iter(row.values()))


def count(psql, table: str) -> int:
    return int(one(psql, f"SELECT count(*) FROM operations.{table}"))


def put_record(psql, project: uuid.UUID, content: str = "c", **columns: object):
    given = {"projectId": project, "type": "TASK", "source": "test", "content": content, **columns}
    names = ", ".join(f'"{name}"' for name in given)
    marks = ", ".join(["%s"] * len(given))
    return one(psql, f"INSERT INTO operations.data_records ({names}) VALUES ({marks}) RETURNING id", *given.values())


def rate(psql, record: uuid.UUID, user: str, model: str | None = None, realism: int = 4) -> None:
    columns, values = '"recordId", "userId", "realismScore", "qualityScore"', [record, user, realism, 4]
    if model is not None:  # only workers may set it
        columns, values = f'{columns}, "llmModel"', [*values, model]
    marks = ", ".join(["%s"] * len(values))
    psql.execute(f"INSERT INTO operations.likert_scores ({columns}) VALUES ({marks})", values)
