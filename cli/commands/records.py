"""``gristmill records``: what came out of files: look, review, export."""

import io
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO
from uuid import UUID

import typer

from cli.output import Json, print_json, print_table, remark
from cli.values import moment
from workers.runtime.refusals import Failed, Refusal, printable

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from models.operations import DataRecord, LikertScore

app = typer.Typer(help="List, show, review, export and delete records.", no_args_is_help=True)

ProjectName = Annotated[str, typer.Argument(metavar="PROJECT", help="Its name or id.")]
RecordId = Annotated[UUID, typer.Argument(metavar="RECORD", help="Its id.")]
Type = Annotated[str | None, typer.Option("--type", help="Only tasks or only feedback.")]
Category = Annotated[str | None, typer.Option(help="Only top_10 or bottom_10.")]
_SHORT = 80


@app.command("list")
def list_(
    project: ProjectName,
    *,
    type_: Type = None,
    category: Category = None,
    reviewed: Annotated[bool | None, typer.Option("--reviewed/--unreviewed", help="Only those.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Most records to show.")] = 50,
    after: Annotated[UUID | None, typer.Option(help="Go on after this id, the last of the page before.")] = None,
    as_json: Json = False,
) -> None:
    """List a project's records, newest first."""
    from cli.session import in_session
    from workers.operations.projects import find
    from workers.operations.records import as_category, as_type, list_records

    async def page(session: "AsyncSession") -> "Sequence[DataRecord]":
        return await list_records(
            session,
            project_id=(await find(session, project)).id,
            type_=as_type(type_),
            category=as_category(category),
            reviewed=reviewed,
            limit=limit,
            after=after,
        )

    found = in_session(page)
    if as_json:
        print_json([_plain(record) for record in found])
    elif found:
        print_table(
            ("RECORD", "TYPE", "CATEGORY", "REVIEWED", "ALIGNED", "CONTENT"),
            (
                (
                    record.id,
                    record.type,
                    record.category,
                    record.reviewed_by if record.has_been_reviewed else "",
                    (record.alignment or {}).get("verdict"),
                    textwrap.shorten(record.content, _SHORT, placeholder="…"),
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
    """Show one record: its content, where it came from, how it was judged and rated."""
    from cli.session import in_session
    from workers.operations.records import get, ratings_of

    async def seen(session: "AsyncSession") -> "tuple[DataRecord, Sequence[LikertScore]]":
        return await get(session, record), await ratings_of(session, record)

    found, ratings = in_session(seen)
    if as_json:
        print_json(_plain(found) | {"ratings": [_rating(one) for one in ratings]})
        return
    creator = " ".join(filter(None, (found.created_by_id, found.created_by_name, found.created_by_email)))
    reviewed = (
        f"by {found.reviewed_by}"
        + {True: ", category right", False: ", category wrong", None: ""}[found.is_category_correct]
    )
    told = {
        "record": found.id,
        "type": found.type,
        "category": found.category,
        "source": found.source,
        "creator": creator,
        "created": moment(found.created_at),
        "embedded": found.embedding_model and f"{len(found.embedding)} dimensions, {found.embedding_model}",
        "reviewed": reviewed if found.has_been_reviewed else None,
    }
    print(printable("\n".join(f"{name:<12}{value}" for name, value in told.items() if value)))
    print(f"\n{printable(found.content)}")
    if found.alignment_analysis:
        print(f"\n{printable(found.alignment_analysis)}")
    if ratings:
        print()
        print_table(
            ("RATED BY", ">REALISM", ">QUALITY", "WHEN"),
            (
                (one.llm_model or one.user_id, one.realism_score, one.quality_score, moment(one.updated_at))
                for one in ratings
            ),
        )


@app.command()
def review(
    records: Annotated[list[UUID], typer.Argument(metavar="RECORD…", help="Their ids.")],
    *,
    by: Annotated[str, typer.Option(help="Who reviewed.")],
    category_correct: Annotated[
        bool | None, typer.Option("--category-correct/--category-wrong", help="Whether their category is right.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Note that somebody has looked at records, and whether their category is right."""
    from cli.session import in_session
    from workers.operations import records as store

    async def note(session: "AsyncSession") -> set[UUID]:
        done = await store.review(session, records, reviewer=by, is_category_correct=category_correct)
        if missing := [str(id_) for id_ in records if id_ not in done]:
            raise Failed(f"records {', '.join(missing)} do not exist (any more); none was changed")
        return done

    done = in_session(note)
    if as_json:
        print_json({"reviewed": sorted(map(str, done))})
    else:
        print(f"{len(done)} records are reviewed by {by}")


@app.command()
def export(
    project: ProjectName,
    file: Annotated[Path, typer.Argument(metavar="FILE.csv", help="Must not be there yet; - is standard output.")],
    *,
    type_: Type = None,
    category: Category = None,
    like: Annotated[
        str | None, typer.Option(metavar="TEXT|RECORD", help="Add how similar each is to a text or a record.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write FILE anew where it is there already.")] = False,
) -> None:
    """Write a project's records as CSV; what a spreadsheet would compute stands behind an apostrophe.

    With their verdicts, the numbers and means of people's and of models' ratings, and what made their vectors.
    """
    if not force and file.is_file():
        raise Refusal(f"{file} is there already; --force writes it anew")
    from cli.likeness import likeness
    from cli.session import in_session
    from workers.ingestion.export import export as write
    from workers.operations.projects import find
    from workers.operations.records import as_category, as_type

    to = None if like is None else likeness(like)

    async def written(session: "AsyncSession") -> int:
        id_, kind, rank = (await find(session, project)).id, as_type(type_), as_category(category)
        with _opened(file) as into:
            return await write(session, id_, into, type_=kind, category=rank, like=to)

    remark(f"{in_session(written)} records written")


@app.command()
def remove(records: Annotated[list[UUID], typer.Argument(metavar="RECORD…", help="Their ids.")]) -> int:
    """Delete records with their ratings. Exit code 1 if one of them was not there."""
    from cli.session import in_session
    from workers.operations import records as store

    done = in_session(lambda session: store.remove(session, records))
    print(f"{len(done)} of {len(records)} records are removed")
    return 0 if len(done) == len(set(records)) else 1


@app.command()
def index(
    dimensions: Annotated[int, typer.Argument(metavar="DIMENSIONS", help="The length of the vectors, such as 1536.")],
) -> None:
    """Make the index for fast similarity search among vectors of this length, while everything runs."""
    from cli.record_index import make_index

    print(make_index(dimensions))


@contextmanager
def _opened(file: Path) -> Iterator[TextIO]:
    """Open ``file`` for a CSV; it takes its place only when all of it is written."""
    if str(file) == "-":
        if isinstance(sys.stdout, io.TextIOWrapper):  # whatever the terminal has: a file is made of it, as a rule
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


def _plain(record: "DataRecord") -> dict[str, Any]:
    """Return what ``--json`` prints: the seed's columns by their names, no vector and no hash."""
    hidden = {"embedding", "contentHash"}
    return {
        column.name: getattr(record, attribute.key)
        for attribute in type(record).__mapper__.column_attrs
        if (column := attribute.columns[0]).name not in hidden
    }


def _rating(rating: "LikertScore") -> dict[str, Any]:
    return {
        "userId": rating.user_id,
        "llmModel": rating.llm_model,
        "realismScore": rating.realism_score,
        "qualityScore": rating.quality_score,
        "updatedAt": rating.updated_at,
    }
