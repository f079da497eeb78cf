"""What a shell completes beyond the commands themselves. Quick, silent, and empty where it cannot know."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

_STAGE = re.compile(r'^@stage\(\s*"([\w.]+)"', re.MULTILINE)
_NEWEST = 40


def stages(incomplete: str) -> list[str]:
    """Return the stages that begin so. Reads the handlers' files as text: importing them takes a second."""
    import workers  # a completion that needs no package of ours loads none

    files = (path for folder in workers.__path__ for path in Path(folder).rglob("*.py"))
    with _silence():
        found = {name for path in files for name in _STAGE.findall(path.read_text(encoding="utf-8"))}
        return sorted(name for name in found if name.startswith(incomplete))
    return []


def job_ids(incomplete: str) -> list[str]:
    """Return the newest jobs that begin so, of the system that runs."""
    with _silence():
        # Imported here: the completion of any other word needs no driver, and a person waits for it.
        from cli.connection import ask
        from workers.runtime.operate.jobs import JobFilter, list_jobs

        newest = ask(lambda conn: list_jobs(conn, JobFilter(), limit=_NEWEST))
        return [str(job.id) for job in newest if str(job.id).startswith(incomplete)]
    return []


def roles(incomplete: str) -> list[str]:
    """Return the roles with a log that begin so."""
    with _silence():
        # Imported here: every command that names a stage or a job imports this module.
        from cli.whereabouts import logs_folder
        from config.settings import load
        from local.logs import choose_roles

        return [name for name in choose_roles(logs_folder(load()), None) if name.startswith(incomplete)]
    return []


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Let nothing reach the terminal, on which a person is typing: no remark, no error."""
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stderr(nowhere), contextlib.suppress(Exception):
        yield
