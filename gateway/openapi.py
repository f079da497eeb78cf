"""The description of the interface (OpenAPI 3.1): what FastAPI derives, and each route's key, scope and problems."""

from collections.abc import Iterator, Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute, iter_route_contexts

from gateway.callers.dependencies import requirements_of
from gateway.catalogue import BY_STATUS
from gateway.problems import MEDIA_TYPE, ProblemDocument

DESCRIPTION = """\
Jobs that call language models: enqueue, wait, follow, cancel, and operate the system.

- **Keys.** `Authorization: Bearer gm_…`. A key has scopes; each operation names the one it needs.
- **Errors** are `application/problem+json` (RFC 9457): `detail` is one line, `errors` names field, rule, value and
  remedy. `/problems` lists the kinds.
- **Request ids.** The header `X-Request-Id` is returned, logged and stored in the history of changes.
- **Limits.** `RateLimit` and `RateLimit-Policy` in answers to a key; 429 and 503 have `Retry-After`.
"""
_SCHEME = "key"
# Statuses of every operation with a key, and of every one with a body.
_WITH_KEY, _WITH_BODY = (401, 403, 429, 503), (400, 408, 413, 415)


def install_openapi(app: FastAPI) -> None:
    """Make ``app`` describe itself with this module; the description is made once."""

    def describe() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _describe(app)
        return app.openapi_schema

    app.openapi = describe  # type: ignore[method-assign]


def _describe(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title=app.title,
        version=app.version,
        openapi_version=app.openapi_version,
        description=DESCRIPTION,
        routes=app.routes,
    )
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    schemas |= _problem_schemas()
    document["components"]["securitySchemes"] = {
        _SCHEME: {"type": "http", "scheme": "bearer", "description": "an API key (`gm_…`) or a token of the issuer"}
    }
    scopes = dict(_find_scopes(app))
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            _complete(operation, path, scopes.get((path, method)))
    return document


def _problem_schemas() -> dict[str, Any]:
    schema = ProblemDocument.model_json_schema(ref_template="#/components/schemas/{model}")
    inner: dict[str, Any] = schema.pop("$defs")
    return inner | {"Problem": schema}


def _find_scopes(app: FastAPI) -> Iterator[tuple[tuple[str, str], str]]:
    """Yield the path and method of each route with a key, and its scope; "" for any key."""
    for context in iter_route_contexts(app.routes):
        route = context.original_route
        if isinstance(route, APIRoute):
            for needed in requirements_of(context.dependant):
                for method in context.methods or ():
                    yield (str(context.path_format), method.lower()), needed.scope or ""


def _complete(operation: dict[str, Any], path: str, scope: str | None) -> None:
    """Add to ``operation`` its key, and the problems that it may answer."""
    responses: dict[str, Any] = operation["responses"]
    statuses: set[int] = {503}
    if scope is not None:
        operation["security"] = [{_SCHEME: []}]
        statuses.update(_WITH_KEY)
        if scope:
            needs = f"Needs the scope `{scope}`."
            operation["description"] = "\n\n".join(filter(None, (operation.get("description"), needs)))
    if "requestBody" in operation:
        statuses.update(_WITH_BODY)
    if "{" in path:
        statuses.add(404)
    if "422" in responses or "requestBody" in operation:
        statuses.add(422)
        responses.pop("422", None)
    for status in sorted(statuses):
        responses.setdefault(str(status), _problem_response(BY_STATUS[status].title))
    responses.setdefault("default", _problem_response("Any other problem"))


def _problem_response(description: str) -> Mapping[str, Any]:
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {"description": description, "content": content}
