"""The documentation of the interface: ``/docs`` (Swagger UI, from our own files) and the kinds of problems."""

from pathlib import Path

from fastapi import APIRouter, Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse

from gateway.catalogue import PROBLEMS
from gateway.problems import HttpProblem

router = APIRouter(include_in_schema=False)

ASSETS = Path(__file__).parent.parent / "assets" / "swagger-ui"
# The page runs only our files, and sends requests only to this gateway.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_TYPES = {"swagger-ui.css": "text/css", "swagger-ui-bundle.js": "text/javascript", "start.js": "text/javascript"}


@router.get("/docs")
async def page() -> FileResponse:
    return FileResponse(ASSETS / "index.html", headers={"Content-Security-Policy": PAGE_POLICY})


@router.get("/openapi.json")
async def description(request: Request) -> JSONResponse:
    return JSONResponse(request.app.openapi())


@router.get("/docs/{name}")
async def asset(name: str) -> FileResponse:
    if name not in _TYPES:
        raise HttpProblem("not-found", f"/docs/{name} does not exist")
    return FileResponse(ASSETS / name, media_type=_TYPES[name], headers={"Cache-Control": "public, max-age=3600"})


@router.get("/problems")
async def problems() -> PlainTextResponse:
    return PlainTextResponse("".join(f"{one.uri}\n  {one.status}: {one.title}\n" for one in PROBLEMS.values()))


@router.get("/problems/{name}")
async def problem(name: str) -> PlainTextResponse:
    if name not in PROBLEMS:
        raise HttpProblem("not-found", "no problem has this name; /problems lists them")
    one = PROBLEMS[name]
    return PlainTextResponse(f"{one.title}\n\nStatus: {one.status}\nType: {one.uri}\n\n{one.meaning}\n")
