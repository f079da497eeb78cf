"""How a question to a model is written: text of others travels as JSON that cannot end its section. Pure."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from workers.runtime.handler.errors import Permanent
from workers.runtime.handler.ports import Message


def write_question(system: str, sections: Mapping[str, Any]) -> list[Message]:
    """Return the messages of a question: the rules, then each section between its own tags, as JSON."""
    content = "\n".join(f"<{name}>\n{sealed(value)}\n</{name}>" for name, value in sections.items())
    return [{"role": "system", "content": system}, {"role": "user", "content": content}]


def sealed(value: Any) -> str:
    """Return ``value`` as JSON that cannot end its section: angle brackets are written as escapes."""
    return sorted_json(value).replace("<", "\\u003c").replace(">", "\\u003e")


def sorted_json(value: Any) -> str:
    """Return ``value`` as JSON with the names in their order, so that equal values give equal text."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def read_section(name: str, messages: Sequence[Message]) -> Any:
    """Return the value of the last section of that name, for a rule that answers; raise Permanent if there is none."""
    for message in reversed(messages):
        if found := re.search(rf"<{name}>\n(.*?)\n</{name}>", message["content"], re.DOTALL):
            return json.loads(found[1])
    raise Permanent(f"the question cannot be answered by a rule: section {name} is missing")
