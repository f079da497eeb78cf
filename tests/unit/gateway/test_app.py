"""Which routes the app has."""

from pathlib import Path

import pytest

from gateway.app import find_routers
from models.domains import Domain
from workers.runtime.refusals import Failed


def make_domain(folder: Path, routes: str | None) -> Domain:
    """Return a domain in a package of its own below ``folder``."""
    package = f"brought_{folder.name}"
    home = folder / package
    home.mkdir()
    (home / "__init__.py").touch()
    if routes is not None:
        (home / "routes.py").write_text(routes)
    return Domain("brought", package, "brought 1.0", folder=home)


def paths(brought: list[Domain]) -> set[str]:
    return {route.path for router in find_routers(brought) for route in router.routes if hasattr(route, "path")}


def test_a_domain_of_another_package_brings_routes(tmp_path, monkeypatch):
    """Its module `routes` has a router like ours."""
    monkeypatch.syspath_prepend(tmp_path)
    domain = make_domain(
        tmp_path,
        """
from fastapi import APIRouter

router = APIRouter(prefix="/v1/tickets")


@router.get("")
async def list_tickets() -> list[str]:
    return []
""",
    )

    assert "/v1/tickets" in paths([domain])
    assert "/v1/stages" in paths([domain])


def test_a_domain_without_routes_is_fine(tmp_path):
    """Most have none."""
    assert paths([make_domain(tmp_path, None)]) == paths([])


def test_a_module_without_a_router_is_named(tmp_path, monkeypatch):
    """The line says what is missing."""
    monkeypatch.syspath_prepend(tmp_path)
    domain = make_domain(tmp_path, "routes = []")

    with pytest.raises(Failed, match=rf"^{domain.package}.routes must have a `router`"):
        find_routers([domain])
