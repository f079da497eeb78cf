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
    import workers

    files = (path for folder in workers.__path__ for path in Path(folder).rglob("*.py"))
    with _silence():
        found = {name for path in files for name in _STAGE.findall(path.read_text(encoding="utf-8"))}
        return sorted(name for name in found if name.startswith(incomplete))
    return []


def job_ids(incomplete: str) -> list[str]:
    """Return the newest jobs that begin so, of the system that runs."""
    with _silence():
        from cli.selection import listed
        from workers.runtime.store.read import JobFilter

        return [
            str(job.id) for job in listed(JobFilter(), limit=_NEWEST, after=None) if str(job.id).startswith(incomplete)
        ]
    return []


def roles(incomplete: str) -> list[str]:
    """Return the roles with a log that begin so."""
    with _silence():
        from cli.whereabouts import logs_folder
        from config.settings import load
        from local.logs import chosen

        return [name for name in chosen(logs_folder(load()), None) if name.startswith(incomplete)]
    return []


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Let nothing reach the terminal, on which a person is typing: no remark, no error."""
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stderr(nowhere), contextlib.suppress(Exception):
        yield
