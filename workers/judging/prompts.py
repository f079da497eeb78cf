"""Write questions to a model. Foreign text is written as JSON that cannot end its section. Pure."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from workers.runtime.handler.errors import Permanent
from workers.runtime.handler.ports import Message


def write_question(system: str, sections: Mapping[str, Any]) -> list[Message]:
    """Return the messages of a question: the rules, then each section as JSON between its own tags."""
    content = "\n".join(f"<{name}>\n{escaped_json(value)}\n</{name}>" for name, value in sections.items())
    return [{"role": "system", "content": system}, {"role": "user", "content": content}]


def escaped_json(value: Any) -> str:
    """Return ``value`` as JSON with escaped angle brackets, so that it cannot end its section."""
    return sorted_json(value).replace("<", "\\u003c").replace(">", "\\u003e")


def sorted_json(value: Any) -> str:
    """Return ``value`` as JSON with sorted names, so that equal values give equal text."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def read_section(name: str, messages: Sequence[Message]) -> Any:
    """Return the value of the last section with that name, for an offline rule; raise Permanent if there is none."""
    for message in reversed(messages):
        if found := re.search(rf"<{name}>\n(.*?)\n</{name}>", message["content"], re.DOTALL):
            return json.loads(found[1])
    raise Permanent(f"the question cannot be answered by a rule: section {name} is missing")
