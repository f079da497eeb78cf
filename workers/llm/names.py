"""Which model names a provider answers to, and how a provider is named in keys and messages. Pure."""

import re
from collections.abc import Collection
from urllib.parse import urlsplit

from workers.runtime.handler.errors import Permanent

# What the tables put where a job names no model; a configured default model stands in for it.
TABLE_DEFAULT = "gpt-3.5-turbo"

# Who makes vectors at OpenAI where no embedding model is named.
OPENAI_EMBEDDING_MODEL = "text-embedding-3-small"

# Identifiers of OpenAI's own chat models: gpt-4o-mini, o3, chatgpt-4o-latest, ft:gpt-4o-mini-2024-07-18:acme::id.
OPENAI_MODEL = re.compile(r"(gpt-|o\d|chatgpt-)[\w.-]*|ft:[\w.:-]+")
KNOWN_SHOWN = 10


def is_openai(base_url: str) -> bool:
    """Tell whether ``base_url`` is OpenAI's own server."""
    return urlsplit(base_url).hostname == "api.openai.com"


def public_url(base_url: str) -> str:
    """Return ``base_url`` without credentials, query or trailing slash: fit for keys and messages."""
    parts = urlsplit(base_url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{host}{port}{parts.path.rstrip('/')}"


def require_openai(model: str) -> None:
    """Raise Permanent unless ``model`` has the form of an identifier of OpenAI's."""
    if not OPENAI_MODEL.fullmatch(model):
        raise Permanent(f"model {model!r} is no OpenAI model identifier; valid are gpt-*, o<digit>*, chatgpt-*, ft:*")


def require_served(model: str, known: Collection[str], *, server: str) -> None:
    """Raise Permanent unless ``model`` is among ``known``, the names ``server`` lists.

    A tag may be left out or added (``llama3`` for ``llama3:latest``, ``vendor/model:free`` for ``vendor/model``).
    """
    if not {model, f"{model}:latest", model.partition(":")[0]}.isdisjoint(known):
        return
    shown = ", ".join(sorted(known)[:KNOWN_SHOWN])
    more = f" and {len(known) - KNOWN_SHOWN} more" if len(known) > KNOWN_SHOWN else ""
    raise Permanent(
        f"model {model!r} is not served by {server}; it serves {shown}{more}; "
        f"name one in the job, or a default in GRISTMILL_LLM__MODEL"
    )
