"""One system of real processes per module. After a failure the logs of its roles are shown."""

from collections.abc import Iterator

import pytest

from tests.e2e.system import System, running_system


@pytest.fixture(scope="module")
def system(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """The module's own servers, and the roles that its tests start."""
    with running_system(tmp_path_factory.mktemp(request.module.__name__.rpartition(".")[2])) as system:
        yield system


@pytest.fixture(autouse=True)
def _roles_live(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test of a module with a system, check that no role ended unexpectedly."""
    system: System | None = request.getfixturevalue("system") if "system" in request.fixturenames else None
    yield
    if system is not None:
        system.show_logs()
        system.check_alive()
