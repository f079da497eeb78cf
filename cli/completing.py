"""Complete stages, job ids and roles in a shell. Quick, silent, and empty if nothing is known."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

_STAGE = re.compile(r'^@stage\(\s*"([\w.]+)"', re.MULTILINE)
_MAX_JOBS = 40


def complete_stage(incomplete: str) -> list[str]:
    """Return the stages that begin with ``incomplete``. Read the handlers as text: to import them takes a second."""
    import workers  # imported here: other completions need no package of ours

    files = (path for folder in workers.__path__ for path in Path(folder).rglob("*.py"))
    with _suppressed_output():
        found = {name for path in files for name in _STAGE.findall(path.read_text(encoding="utf-8"))}
        return sorted(name for name in found if name.startswith(incomplete))
    return []


def complete_job_id(incomplete: str) -> list[str]:
    """Return the newest jobs of the running system that begin with ``incomplete``."""
    with _suppressed_output():
        # Imported here: the completion of any other word needs no driver and must be quick.
        from cli.connection import in_connection
        from workers.runtime.operate.jobs import JobFilter, list_jobs

        newest = in_connection(lambda conn: list_jobs(conn, JobFilter(), limit=_MAX_JOBS))
        return [str(job.id) for job in newest if str(job.id).startswith(incomplete)]
    return []


def complete_role(incomplete: str) -> list[str]:
    """Return the roles that have a log and begin with ``incomplete``."""
    with _suppressed_output():
        # Imported here: every command that names a stage or a job imports this module.
        from cli.running_system import find_logs_dir
        from config.settings import load
        from local.logs import choose_roles

        return [name for name in choose_roles(find_logs_dir(load()), None) if name.startswith(incomplete)]
    return []


@contextlib.contextmanager
def _suppressed_output() -> Iterator[None]:
    """Suppress remarks and errors: a person is typing on the terminal."""
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stderr(nowhere), contextlib.suppress(Exception):
        yield
