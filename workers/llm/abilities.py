"""What a server takes when it is asked for one model, as this process has learned from what the server refused."""

import re
from dataclasses import dataclass
from typing import Literal

import openai

from workers.llm.errors import message_of, names_response_format
from workers.llm.structured import Rung

# A model that reasons writes up to this much before its answer, and servers count it as part of the answer.
REASONING_TOKENS = 8_192
# The estimate of the input is high. Whatever it says, this share of the context is left for the answer.
MIN_SHARE = 8

LimitName = Literal["max_tokens", "max_completion_tokens"]

_OTHER_NAME = re.compile(
    r"(?:use|try)\W+max_completion_tokens|max_completion_tokens\W+instead|unsupported parameter\W+max_tokens\b",
    re.IGNORECASE,
)
# Servers say: maximum context length is 4096 tokens, you requested 5000 (1000 in the messages, 4000 in the completion).
_CONTEXT = re.compile(r"(?:context (?:length|window|size)|n_ctx)\D{0,24}(\d{3,8})", re.IGNORECASE)
_INPUT = re.compile(
    r"(\d+)(?: tokens)? (?:in|from) (?:the|your) (?:messages|prompt|input)|(\d+) (?:input|prompt) tokens"
    r"|(?:input|prompt) (?:has|contains|of) (?:at least )?(\d+)|(\d+) of text input",
    re.IGNORECASE,
)
# Servers say: this model supports at most 16384 completion tokens; must be less than or equal to 4096; 100000 > 8192.
_MAX_OUTPUT = re.compile(
    r"(?:at most|maximum (?:of|is|value is)|less than or equal to|<=|>|up to)\s*(\d+)", re.IGNORECASE
)


@dataclass(slots=True)
class Sent:
    """The form of one request. ``input_tokens`` is an estimate until the server has reported its own count."""

    rung: Rung
    limit_name: LimitName
    limit: int
    input_tokens: int


@dataclass(slots=True)
class Abilities:
    """How to ask one model of one server.

    ``context`` is how many tokens question and answer may have together, ``most_output`` how many an answer may have;
    None if the server has not reported it. ``reasons``: the model writes reasoning before its answer.
    """

    rung: Rung = Rung.SCHEMA
    limit_name: LimitName = "max_tokens"
    context: int | None = None
    most_output: int | None = None
    reasons: bool = False

    def limit(self, bound: int, *, input_tokens: int, times: int = 1, context: int | None = None) -> int:
        """Return the tokens to allow for an answer of ``times`` ``bound``, with room for reasoning.

        It stays within the context: the smaller one of ``context`` and of what the server reported.
        """
        limit = times * (bound + (REASONING_TOKENS if self.reasons else 0))
        if self.most_output is not None:
            limit = min(limit, self.most_output)
        for size in (context, self.context):
            if size is not None:
                limit = min(limit, max(size - input_tokens, size // MIN_SHARE))
        return max(limit, 1)

    def adapt(self, error: openai.APIStatusError, sent: Sent) -> bool:
        """Learn from a refusal; return whether the same question may be accepted in another form.

        Of calls that ran at the same time, only those that asked in the present form change it. The others are sent
        again in the form that was found meanwhile.
        """
        said = message_of(error.body)
        if self._adapt_limit_name(said, error, sent) or self._adapt_limit(said, sent):
            return True
        if sent.rung is Rung.PROMPT or not names_response_format(error):
            return False
        self.rung = max(self.rung, Rung(sent.rung + 1))
        return True

    def _adapt_limit_name(self, said: str, error: openai.APIStatusError, sent: Sent) -> bool:
        unsupported = error.param == "max_tokens" and error.code == "unsupported_parameter"
        if sent.limit_name != "max_tokens" or not (unsupported or _OTHER_NAME.search(said)):
            return False
        self.limit_name = "max_completion_tokens"
        self.reasons = True  # only models that reason insist on this name
        return True

    def _adapt_limit(self, said: str, sent: Sent) -> bool:
        """Lower the limit if the server refuses it, by the numbers that it tells."""
        if told := _CONTEXT.search(said):
            self.context = int(told[1])
            counted = _INPUT.search(said)
            sent.input_tokens = int(next(filter(None, counted.groups()))) if counted else self.context
            return self.context // MIN_SHARE <= self.context - sent.input_tokens < sent.limit
        most = _MAX_OUTPUT.search(said) if "max_tokens" in said or "max_completion_tokens" in said else None
        if most is None or not 0 < int(most[1]) < sent.limit:
            return False
        self.most_output = int(most[1])
        return True
