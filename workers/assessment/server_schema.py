"""Check the description of a server against a JSON Schema: that of the request, or Gristmill's own."""

import json
from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files
from typing import Any

from workers.judging.json_schema import SchemaCheck, check

OWN_SCHEMA = "gristmill's own schema of a server description"
SCHEMA_OF_REQUEST = "the schema in options"


def check_server(server: Mapping[str, Any], schema: Mapping[str, Any] | None) -> SchemaCheck:
    """Check ``server`` against ``schema``, or Gristmill's own if None; raise Permanent if the schema cannot be used."""
    if schema is None:
        return check(server, _own_schema(), against=OWN_SCHEMA, name=OWN_SCHEMA)
    against = str(schema.get("title") or schema.get("$id") or SCHEMA_OF_REQUEST)
    return check(server, json.dumps(schema, sort_keys=True), against=against, name="options.schema")


@lru_cache(maxsize=1)
def _own_schema() -> str:
    return files("workers.assessment").joinpath("mcp_server.schema.json").read_text("utf-8")
