"""``gristmill profiles``: add, list, show and score profiles."""

import asyncio
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer

from cli.connection import actor, in_connection
from cli.following import follow_job
from cli.output import Json, one_line, print_json, print_table, remark
from cli.profile_file import read_profiles
from cli.score_view import score_lines
from cli.server_urls import find_server_urls
from cli.session import in_session
from cli.values import format_time, parse_payload
from config.settings import load
from workers.runtime.database import Transaction
from workers.runtime.operate.jobs import show_job
from workers.runtime.refusals import Refusal, printable
from workers.scoring import profiles

app = typer.Typer(help="Add, list, show and score profiles.", no_args_is_help=True)

ProfileName = Annotated[str, typer.Argument(metavar="PROFILE", help="Name or id of the profile.")]


@app.command()
def add(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="A .jsonl or .csv file with `name`; all other fields are attributes."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Add one profile with this name, without a file.")] = None,
    attributes: Annotated[
        str, typer.Option(metavar="JSON|@FILE", help="The attributes of this profile: an object.")
    ] = "{}",
    as_json: Json = False,
) -> None:
    """Add profiles and print their ids. A profile that exists with the same content is not added again."""
    if (file is None) == (name is None):
        raise Refusal("give a FILE, or --name with --attributes")
    new = read_profiles(file) if file else [profiles.new_profile(str(name), parse_payload(attributes))]
    added = in_session(lambda session: profiles.add_profiles(session, new, actor=actor()))
    if as_json:
        print_json(added)
    else:
        print("\n".join(str(one.id) for one in added))


@app.command("list")
def list_(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Maximum number of profiles.")] = 50,
    after: Annotated[UUID | None, typer.Option(help="Continue after this id, the last of the page before.")] = None,
    as_json: Json = False,
) -> None:
    """List profiles, newest first, with their last scores."""
    found = in_session(lambda session: profiles.list_profiles(session, limit=limit, after=after))
    if as_json:
        print_json(found)
    elif found:
        rows = [
            (one.id, one.name, "–" if one.score is None else one.score, format_time(one.created_at)) for one in found
        ]
        print_table(("ID", "NAME", ">SCORE", "CREATED"), rows, keep={"CREATED"})
        if len(found) == limit:
            remark(f"only the newest {limit}; more: --limit N, or --after {found[-1].id}")
    else:
        remark("no profiles yet; `gristmill profiles add --name NAME --attributes JSON` adds one")


@app.command()
def show(profile: ProfileName, as_json: Json = False) -> None:
    """Show one profile with its attributes and its last score."""
    found = in_session(lambda session: profiles.find_profile(session, profile))
    if as_json:
        print_json(found)
        return
    facts = {
        "profile": found.name,
        "id": found.id,
        "owner": found.owner_id,
        "created": format_time(found.created_at),
        "last score": found.score,
        **found.attributes,
    }
    width = max(map(len, facts)) + 2
    for name, value in facts.items():
        if value is not None:
            print(printable(f"{name:<{width}}{one_line(value)}"))


@app.command()
def score(
    profile: Annotated[str | None, typer.Argument(metavar="[PROFILE]", help="Name or id of the profile.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Score every profile.")] = False,
    prompt: Annotated[
        str, typer.Option(metavar="TEXT|@FILE", help="What to judge: a text, with criteria below it if you want.")
    ] = "",
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for the end of the jobs; exit code 1 unless all complete.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Enqueue one scoring job per profile and print the ids of the jobs."""
    if (profile is None) != every:
        raise Refusal("give a PROFILE, or --all")
    text = _read_prompt(prompt)

    async def enqueue(session: Transaction) -> list[UUID]:
        ids = None if profile is None else [(await profiles.find_profile(session, profile)).id]
        return await profiles.score_profiles(session, ids, text, actor=actor())

    jobs = in_session(enqueue)
    completed = _wait_for_all(jobs) if wait else True
    if as_json:
        print_json([in_connection(partial(show_job, job_id=job)) for job in jobs] if wait else {"job_ids": jobs})
    elif wait:
        _print_scores(jobs)
    else:
        print("\n".join(map(str, jobs)))
    return 0 if completed else 1


def _read_prompt(given: str) -> str:
    if not given.strip():
        raise Refusal("--prompt must be a text that says what to judge, or @FILE")
    if not given.startswith("@"):
        return given
    try:
        return Path(given[1:]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise Refusal(f"prompt {given[1:]} cannot be read: {reason}") from None


def _wait_for_all(jobs: Sequence[UUID]) -> bool:
    """Wait for the end of all jobs; return whether all completed."""
    database_url = find_server_urls(load()).database_url
    followed = [asyncio.run(follow_job(database_url, job, print_line=remark)) for job in jobs]
    return all(one.succeeded for one in followed)


def _print_scores(jobs: Sequence[UUID]) -> None:
    for job in jobs:
        found = in_connection(partial(show_job, job_id=job))
        print(f"job {job}")
        if found.job is not None and found.job.error_message:
            print(printable(found.job.error_message))
        for line in score_lines(found.values.get("parsed_score")):
            print(printable(line))
