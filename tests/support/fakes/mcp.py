"""A complete and correct description of an MCP server."""

from typing import Any

SERVER: dict[str, Any] = {
    "name": "io.github.acme/files",
    "description": "Serves files.",
    "repository": {"url": "https://github.com/acme/files", "source": "github", "id": "1"},
    "version_detail": {"version": "1.0.2", "release_date": "2026-05-01T12:00:00Z"},
    "packages": [{"registry_name": "npm", "name": "@acme/files", "version": "1.0.2"}],
}
