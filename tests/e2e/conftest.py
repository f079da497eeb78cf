"""One system of real processes per module; what its roles said is shown beside a failure."""

from collections.abc import Iterator

import pytest

from tests.e2e.system import System, running_system


@pytest.fixture(scope="module")
def system(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Servers of the module's own, and the roles that its tests start."""
    with running_system(tmp_path_factory.mktemp(request.module.__name__.rpartition(".")[2])) as system:
        yield system


@pytest.fixture(autouse=True)
def _roles_live(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test of a module with a system: no role ended unasked."""
    system: System | None = request.getfixturevalue("system") if "system" in request.fixturenames else None
    yield
    if system is not None:
        system.show_logs()
        system.check_alive()
