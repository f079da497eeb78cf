"""``gristmill records``: list, show, review, export and delete the records of projects."""

import io
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TextIO
from uuid import UUID

import typer

from cli.connection import actor
from cli.output import Json, print_json, print_table, remark
from cli.query_vector import find_query_vector
from cli.session import in_database, in_session
from cli.values import format_count, format_time
from workers.ingestion.export import Likeness
from workers.ingestion.export import export_records as write
from workers.operations import projects, record_review
from workers.runtime.database import Transaction
from workers.runtime.refusals import Failed, Refusal, printable
from workers.vectorization.similarity_index import make_index

app = typer.Typer(help="List, show, review, export and delete records.", no_args_is_help=True)

ProjectName = Annotated[str, typer.Argument(metavar="PROJECT", help="Name or id of the project.")]
RecordId = Annotated[UUID, typer.Argument(metavar="RECORD", help="Id of the record.")]
Type = Annotated[str | None, typer.Option("--type", help="Only tasks or only feedback.")]
Category = Annotated[str | None, typer.Option(help="Only top_10 or bottom_10.")]
_MAX_CONTENT_CHARACTERS = 80


@app.command("list")
def list_(
    project: ProjectName,
    *,
    type_: Type = None,
    category: Category = None,
    reviewed: Annotated[
        bool | None, typer.Option("--reviewed/--unreviewed", help="Only reviewed records, or only the others.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Maximum number of records.")] = 50,
    after: Annotated[UUID | None, typer.Option(help="Continue after this id, the last of the page before.")] = None,
    as_json: Json = False,
) -> None:
    """List a project's records, newest first."""

    async def page(session: Transaction) -> list[record_review.RecordView]:
        return await record_review.list_records(
            session,
            project_id=(await projects.find(session, project)).id,
            type_=type_,
            category=category,
            reviewed=reviewed,
            limit=limit,
            after=after,
        )

    found = in_session(page)
    if as_json:
        print_json([record.by_column() for record in found])
    elif found:
        print_table(
            ("RECORD", "TYPE", "CATEGORY", "REVIEWED", "ALIGNED", "CONTENT"),
            (
                (
                    record.id,
                    record.type,
                    record.category,
                    record.reviewed_by if record.has_been_reviewed else "",
                    record.verdict,
                    textwrap.shorten(record.content, _MAX_CONTENT_CHARACTERS, placeholder="…"),
                )
                for record in found
            ),
            keep={"RECORD"},
        )
        if len(found) == limit:
            remark(f"only the newest {limit}; more: --limit N, or --after {found[-1].id}")
    else:
        remark("no records match")


@app.command()
def show(record: RecordId, as_json: Json = False) -> None:
    """Show one record: its content, its source, its verdict and its ratings."""
    details = in_session(lambda session: record_review.show(session, record))
    found, ratings = details.record, details.scores
    if as_json:
        print_json(found.by_column() | {"ratings": [one.by_column() for one in ratings]})
        return
    creator = " ".join(filter(None, (found.created_by_id, found.created_by_name, found.created_by_email)))
    reviewed = (
        f"by {found.reviewed_by}"
        + {True: ", category right", False: ", category wrong", None: ""}[found.is_category_correct]
    )
    facts = {
        "record": found.id,
        "type": found.type,
        "category": found.category,
        "source": found.source,
        "creator": creator,
        "created": format_time(found.created_at),
        "embedded": found.embedding_model and f"{details.dimensions} dimensions, {found.embedding_model}",
        "reviewed": reviewed if found.has_been_reviewed else None,
    }
    print(printable("\n".join(f"{name:<12}{value}" for name, value in facts.items() if value)))
    print(f"\n{printable(found.content)}")
    if found.alignment_analysis:
        print(f"\n{printable(found.alignment_analysis)}")
    if ratings:
        print()
        print_table(
            ("RATED BY", ">REALISM", ">QUALITY", "WHEN"),
            (
                (one.llm_model or one.user_id, one.realism_score, one.quality_score, format_time(one.updated_at))
                for one in ratings
            ),
        )


@app.command()
def review(
    records: Annotated[list[UUID], typer.Argument(metavar="RECORD…", help="Ids of records.")],
    *,
    by: Annotated[str, typer.Option(help="Name of the reviewer.")],
    category_correct: Annotated[
        bool | None,
        typer.Option("--category-correct/--category-wrong", help="Whether the category of the records is correct."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Mark records as reviewed, and say whether their category is correct."""
    done = in_session(
        lambda session: record_review.review(
            session, records, reviewer=by, is_category_correct=category_correct, actor=actor()
        )
    )
    if as_json:
        print_json({"reviewed": sorted(map(str, done))})
    else:
        print(f"{format_count(len(done), 'record')} {'is' if len(done) == 1 else 'are'} reviewed by {by}")


@app.command()
def export(
    project: ProjectName,
    file: Annotated[
        Path, typer.Argument(metavar="FILE.csv", help="The file, which must not exist; - is standard output.")
    ],
    *,
    type_: Type = None,
    category: Category = None,
    like: Annotated[
        str | None, typer.Option(metavar="TEXT|RECORD", help="Add the similarity of each record to a text or a record.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite FILE if it exists.")] = False,
) -> None:
    """Export the records of a project as CSV. A value that a spreadsheet would compute gets an apostrophe before it.

    The file has the verdicts, the number and mean of the ratings by people and by models, and the embedding models.
    """
    if not force and file.is_file():
        raise Refusal(f"{file} exists; --force overwrites it")
    vector = None if like is None else find_query_vector(like)
    to = None if vector is None else Likeness(vector.numbers, vector.model)

    async def write_all(session: Transaction) -> int:
        id_ = (await projects.find(session, project)).id
        kind, rank = record_review.as_type(type_), record_review.as_category(category)
        with _open_for_writing(file) as into:
            return await write(session, id_, into, type_=kind, category=rank, like=to)

    remark(f"{format_count(in_session(write_all), 'record')} written")


@app.command()
def remove(records: Annotated[list[UUID], typer.Argument(metavar="RECORD…", help="Ids of records.")]) -> int:
    """Delete records with their ratings. Exit code 1 if one of them does not exist."""
    done = in_session(lambda session: record_review.remove(session, records, actor=actor()))
    print(f"{len(done)} of {format_count(len(records), 'record')} removed")
    return 0 if len(done) == len(set(records)) else 1


@app.command()
def index(
    dimensions: Annotated[
        int, typer.Argument(metavar="DIMENSIONS", help="The length of the vectors, for example 1536.")
    ],
) -> None:
    """Make the index for fast similarity search among vectors of this length. The system can run meanwhile."""
    print(in_database(lambda database: make_index(database, dimensions)))


@contextmanager
def _open_for_writing(file: Path) -> Iterator[TextIO]:
    """Open ``file`` for a CSV. It replaces an existing file only when it is complete."""
    if str(file) == "-":
        if isinstance(sys.stdout, io.TextIOWrapper):  # whatever the terminal uses: the output usually goes into a file
            sys.stdout.reconfigure(encoding="utf-8", newline="")
        yield sys.stdout
        return
    if file.exists() and not file.is_file():  # a pipe, or /dev/null
        with file.open("w", encoding="utf-8", newline="") as into:
            yield into
        return
    partial = file.with_name(f".{file.name}.partial")
    try:
        with partial.open("w", encoding="utf-8", newline="") as into:
            yield into
        partial.replace(file)
    except OSError as error:
        raise Failed(f"{file} cannot be written: {error.strerror}") from None
    finally:
        partial.unlink(missing_ok=True)
