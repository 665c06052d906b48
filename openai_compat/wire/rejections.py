"""What a server's refusal says of a parameter, and whether it is the server that says it."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

from ..errors import APIStatusError

_UNKNOWN_CODE = re.compile(r"unsupported|unknown_param|unrecogni[sz]ed|extra_forbidden|unexpected_", re.IGNORECASE)
_NO = re.compile(
    r"unsupported|unrecogni[sz]ed|unknown|unexpected|forbidden|deprecated|invalid (?:parameter|argument|field)"
    r"|extra (?:inputs|fields)|no longer|not a? ?valid (?:parameter|argument|field|key|property)"
    r"|not (?:supported|permitted|allowed|recogni[sz]ed|accepted|available)"
    r"|(?:does not|do not|doesn['’]t|cannot) (?:support|accept|recogni[sz]e|allow)",
    re.IGNORECASE,
)
_OUT_OF_RANGE = re.compile(
    r"too (?:large|small|long|short|big|high|low)|(?:greater|less|more|fewer|larger|smaller) than|at (?:least|most)"
    r"|exceed|maximum|minimum|out of range|between",
    re.IGNORECASE,
)
_NO_BEFORE = (
    r"unsupported|unrecogni[sz]ed|unknown|unexpected|unpermitted|invalid|extra|additional|forbidden|deprecated"
    r"|(?:are )?not (?:supported|allowed|permitted)|no such"
    r"|(?:does not|do not|doesn['’]t|cannot) (?:support|accept|recogni[sz]e|allow)"
)
_BETWEEN_BEFORE = (
    r"the|request|body|json|inputs?|parameters?|parameter\(s\)|fields?|arguments?|keyword|keys?|name|propert(?:y|ies)"
    r"|option|supplied"
)
_NO_AFTER = (
    r"unsupported|unrecogni[sz]ed|unknown|unexpected|forbidden|deprecated|removed|no longer|extra (?:inputs|fields)"
    r"|not (?:yet )?(?:supported|permitted|allowed|recogni[sz]ed|accepted|available|enabled|implemented)"
    r"|not an? (?:valid|known|supported|recogni[sz]ed) (?:parameter|argument|field|key|property|option)"
)
_BETWEEN_AFTER = (
    r"is|was|are|has|been|currently|parameter|field|option|property|argument|request|in|which"
    r"|(?:with|for|by|on) this model"
)
_EFFORT_LIST = re.compile(
    r"(?:supported|allowed|valid|accepted|possible) (?:values|options|efforts)|(?:must|should) be|one of|expected",
    re.IGNORECASE,
)
_EFFORT = r"none|minimal|low|medium|default|high|xhigh|max"
_FORMAT = r"(?:response[_ ]format|json_schema|json_object|structured[ _]outputs?|json[ _]mode|response mime type)"
_NO_FORMAT = (
    r"(?:not (?:be )?(?:support\w*|available|allowed|permitted|implemented|enabled|accepted|a valid)|unsupported"
    r"|unavailable|(?:does not|doesn['’]t) support|(?:must|should|cannot|can't) be|unknown|unrecogni[sz]ed|unexpected"
    r"|only (?:support|accept|allow)\w*|extra (?:inputs|fields)|invalid (?:parameter|value|type)|literal_error)"
)
_GAP = r"(?:[^.\n]|\.(?=\w)){0,120}?"
_REFUSES_FORMAT = re.compile(rf"{_FORMAT}{_GAP}{_NO_FORMAT}|{_NO_FORMAT}{_GAP}{_FORMAT}", re.IGNORECASE)
_CALL = r"\b(?:tool_choice|tools?|function[ _]call\w*)\b"
_REFUSES_CALL = re.compile(
    rf"(?:not support\w*|unsupported|unavailable)[^.\n]{{0,40}}?{_CALL}"
    rf"|{_CALL}[^.\n]{{0,60}}?"
    r"(?:not (?:support\w*|available|allowed|permitted|accepted)|unsupported|(?:must|should) be|only)",
    re.IGNORECASE,
)
_INVALID_SCHEMA = re.compile(r"invalid[_ ](?:json[_ ])?schema", re.IGNORECASE)
_OTHER_MATTERS = frozenset({401, 402, 403, 404, 408, 409, 413, 429})
_OPTIONS = frozenset(
    {"stream_options", "chat_template_kwargs", "response_format", "tool_choice", "reasoning", "thinking"}
)
"""Keys of a body whose values this library makes, or a program: nobody's words are in them."""

MAX_WORDS = 4000
"""Characters of a message that are looked at."""


class Rejection:
    """One refusal, and the body that was refused.

    What a server's words name counts only where nothing else that was sent holds that name.
    """

    def __init__(self, error: APIStatusError, body: Mapping[str, Any]) -> None:
        self._of_parameters = error.status_code in (400, 422)
        self._status = error.status_code
        self._codes = f"{error.code} {error.type}"
        self._param = re.sub(r"^(?:\$\.|body\.)+", "", error.param or "")
        self._words = str(error)[:MAX_WORDS]
        self._body = body

    def refuses(self, *names: str) -> bool:
        """Whether it is one of these parameters that the server does not take at all."""
        return self._of_parameters and any(self._refuses(name) for name in names)

    def _refuses(self, name: str) -> bool:
        if self._is_about(name):
            unknown = _UNKNOWN_CODE.search(self._codes)
            return bool(unknown or (_NO.search(self._words) and not _OUT_OF_RANGE.search(self._words)))
        return any(pattern.search(self._words) for pattern in _refusing(name)) and not self._was_sent(name)

    def asks_for(self, other: str, name: str) -> bool:
        """Whether the server wants ``other`` in place of ``name``."""
        wish = rf"(?:\buse|replaced by|in favou?r of) (?:the )?(?:parameter )?{_named(other)}"
        if not (self._of_parameters and re.search(wish, self._words, re.IGNORECASE)):
            return False
        return self._is_about(name) or not (self._was_sent(name) or self._was_sent(other))

    def wants_assistant_after_tool(self) -> bool:
        """Mistral's rule of order, wherever its models are served."""
        order = re.search(r"unexpected role '?user'? after role '?tool'?", self._words, re.IGNORECASE)
        return bool(self._of_parameters and order and not self._was_sent("unexpected role"))

    def misses_reasoning(self) -> bool:
        """Kimi's and DeepSeek's rule that the thoughts of a call go back with it, wherever their models are served."""
        words = r"\breasoning_content\b[^\n]{0,60}?(?:is missing in assistant|must be passed back)"
        return bool(self._of_parameters and re.search(words, self._words) and not self._was_sent("reasoning_content"))

    def refuses_reasoning_beside_tools(self) -> bool:
        """OpenAI, of GPT-5.4 and later: "Function tools with reasoning_effort are not supported for ..."."""
        words = r"\btools with reasoning_effort\b[^.]{0,20} not supported"
        return self._of_parameters and bool(re.search(words, self._words)) and self._knows("reasoning_effort")

    def efforts(self) -> tuple[str, ...]:
        """The efforts that the server says it takes, where it refused another."""
        sent = self._body.get("reasoning_effort")
        if not self._of_parameters or not self._knows("reasoning_effort"):
            return ()
        where = _EFFORT_LIST.search(self._words)
        tail = self._words[where.end() :].partition(". ")[0][:200] if where else ""
        found = re.findall(rf"[`'\"]({_EFFORT})[`'\"]", tail) or re.findall(rf"\b({_EFFORT})\b", tail)
        return () if sent in found else tuple(dict.fromkeys(found))

    def _knows(self, name: str) -> bool:
        """Whether it speaks of this parameter."""
        return self._is_about(name) or (bool(re.search(_named(name), self._words)) and not self._was_sent(name))

    def refuses_schema(self) -> bool:
        """Whether it is the way in which the answer's schema was asked for; llama-cpp-python says so with a 500."""
        if self._status < 400 or self._status in _OTHER_MATTERS:
            return False
        if _INVALID_SCHEMA.search(f"{self._codes} {self._words}"):
            return False
        by_call = "response_format" not in self._body
        names = ("tool_choice", "tools") if by_call else ("response_format",)
        if any(self._is_about(name) for name in names):
            return True
        refuses, subject = (_REFUSES_CALL, _CALL) if by_call else (_REFUSES_FORMAT, _FORMAT)
        words = refuses.search(self._words)
        return words is not None and not any(
            self._was_sent(name) for name in re.findall(subject, words[0], re.IGNORECASE)
        )

    def _is_about(self, name: str) -> bool:
        return re.split(r"[.\[]", self._param, maxsplit=1)[0] == name

    def _was_sent(self, words: str) -> bool:
        """Whether these words stand in what was sent, apart from the options that this library makes."""
        wanted = _letters(words)
        stack: list[Any] = [value for key, value in self._body.items() if key not in _OPTIONS]
        while stack:
            value = stack.pop()
            if isinstance(value, str):
                if wanted in _letters(value):
                    return True
            elif isinstance(value, Mapping):
                # The keys of a message, such as reasoning_content, are nobody's words either.
                stack.extend(value.values() if "role" in value else (*value, *value.values()))
            elif isinstance(value, (list, tuple)):
                stack.extend(value)
        return False


def _letters(text: str) -> str:
    """A text without what a server's quoting may change: case, white space, escapes, quotation marks."""
    return re.sub(r"[\W_]+", "", text.lower())


@functools.lru_cache(maxsize=32)
def _named(name: str) -> str:
    """A parameter as servers name it: ``'max_tokens'``, ``body.max_tokens``, ``stream_options.include_usage``."""
    return rf"(?<![\w.\-])(?:body\.|\$\.)?[`'\"\[(]*{name}(?:\.\w+)*[`'\"\])]*(?![\w\-])"


@functools.lru_cache(maxsize=32)
def _refusing(name: str) -> tuple[re.Pattern[str], ...]:
    named = _named(name)
    forms = (
        rf"(?:{_NO_BEFORE})[\s:]+(?:(?:{_BETWEEN_BEFORE})[\s:]+){{0,4}}{named}",
        rf"{named}[\s:,\-]*(?:(?:{_BETWEEN_AFTER})[\s:,]+){{0,4}}(?:{_NO_AFTER})",
        # A list of pydantic's errors, as text.
        rf"extra_forbidden[^\]}}]{{0,40}}?loc['\"]: ?[\[(](?:['\"]body['\"], ?)?['\"]{name}['\"]",
    )
    return tuple(re.compile(form, re.IGNORECASE) for form in forms)
