"""How many tokens a text or a request has: counted by the server, by tiktoken, or estimated."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

import attrs

from .errors import APIStatusError, ConfigurationError, ResponseParseError
from .limits.estimate import input_tokens
from .wire.dialect import Tokenizer

Method = Literal["server", "tiktoken", "estimate"]
Ask = Callable[[str, Mapping[str, Any]], Any]
"""Posts to a path of the server, beside its API; returns the decoded reply."""


@attrs.frozen(kw_only=True)
class TokenCount:
    """How many tokens there are, and who says so.

    ``method`` is ``"server"``; ``"tiktoken"``, exact for a text, and for a request by OpenAI's published rule, a few
    tokens off; or ``"estimate"``, which may be wrong by half. ``tokenizer`` is which server counts. As an ``int`` it is
    its ``tokens``.
    """

    tokens: int
    method: Method
    tokenizer: Tokenizer = "none"

    def __int__(self) -> int:
        return self.tokens

    @property
    def exact(self) -> bool:
        """Whether the server itself has counted, as it will for the bill."""
        return self.method == "server"


def count_tokens(
    text: str | None,
    body: Mapping[str, Any],
    *,
    tokenizer: Tokenizer,
    ask: Ask,
    estimate: bool,
    provider: str,
) -> TokenCount:
    """Count the tokens of a text, or of a request's body.

    Args:
        text: None for the body, of which else only the ``model`` is read.
        tokenizer: who counts, as a ``Dialect`` has it.
        estimate: whether an estimate will do.

    Raises:
        ConfigurationError: nobody counts.
        APIError: the server, which can, could not be asked.
    """
    if tokenizer == "tiktoken" or (tokenizer in ("ask", "none") and _is_openai_model(body["model"])):
        counted = _by_tiktoken(text, body)
        if counted is not None:
            return TokenCount(tokens=counted, method="tiktoken", tokenizer=tokenizer)
    for name in ("llamacpp", "vllm"):
        if tokenizer not in ("ask", name):
            continue
        try:
            tokens = _BY_SERVER[name](text, body, ask)
        except APIStatusError as error:
            # Of an address that it does not have a gateway may say that it is forbidden.
            unknown = (400, 403, 404, 405, 422, 501) if tokenizer == "ask" else (404,)
            if error.status_code not in unknown:
                raise
        except ResponseParseError:
            if tokenizer == name:
                raise
        else:
            if tokens is not None:
                return TokenCount(tokens=tokens, method="server", tokenizer=name)
    if not estimate:
        raise ConfigurationError(
            f"{provider} does not count tokens; for OpenAI's models: pip install 'openai-compat[tokens]'; "
            "or take an estimate: estimate=True"
        )
    guessed = max(1, len(text.encode("utf-8", "replace")) // 4) if text is not None else input_tokens(body)
    return TokenCount(tokens=guessed, method="estimate", tokenizer=tokenizer)


def _by_llamacpp(text: str | None, body: Mapping[str, Any], ask: Ask) -> int | None:
    whole = text is None
    if text is None:
        templated = ask("/apply-template", _kept(body, "model", "messages", "tools", "chat_template_kwargs"))
        text = templated.get("prompt") if isinstance(templated, dict) else None
        if not isinstance(text, str):
            return None
    # As its chat completions do it: with the model's own marks in a prompt, and none added to a text.
    counted = ask("/tokenize", {"content": text, "add_special": whole, "parse_special": whole})
    tokens = counted.get("tokens") if isinstance(counted, dict) else None
    return len(tokens) if isinstance(tokens, list) and (tokens or not text) else None


def _by_vllm(text: str | None, body: Mapping[str, Any], ask: Ask) -> int | None:
    if text is None:
        asked = _kept(body, "model", "messages", "tools", "chat_template_kwargs")
        asked["add_generation_prompt"] = True
    else:
        asked = {"model": body["model"], "prompt": text, "add_special_tokens": False}
    counted = ask("/tokenize", asked)
    count = counted.get("count") if isinstance(counted, dict) else None
    return count if isinstance(count, int) and not isinstance(count, bool) and count >= 0 else None


_BY_SERVER: dict[Literal["llamacpp", "vllm"] | str, Callable[[str | None, Mapping[str, Any], Ask], int | None]] = {
    "llamacpp": _by_llamacpp,
    "vllm": _by_vllm,
}


def _kept(body: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: body[name] for name in names if name in body}


_OPENAI_MODEL = re.compile(r"(?:openai/)?(?:ft:)?(?:gpt-[345]|o[134](?:-|$)|chatgpt-|text-embedding-(?:3|ada))")


def _is_openai_model(name: str) -> bool:
    return _OPENAI_MODEL.match(name) is not None


def _by_tiktoken(text: str | None, body: Mapping[str, Any]) -> int | None:
    """None where tiktoken is not installed, cannot get its tables, or does not know the model."""
    try:
        import tiktoken
    except ImportError:
        return None
    name = body["model"].removeprefix("openai/").removeprefix("ft:")
    try:
        encoding = tiktoken.encoding_for_model(name)
    except (KeyError, OSError):
        # The tables are downloaded when they are first used.
        return None

    def length(said: str) -> int:
        return len(encoding.encode(said, disallowed_special=()))

    return length(text) if text is not None else by_published_rule(body, length)


def by_published_rule(body: Mapping[str, Any], length: Callable[[str], int]) -> int:
    """The tokens of a request, as OpenAI's cookbook counts them: 3 a message, 1 a name, 3 to begin the answer.

    Of pictures and sound nothing is said there: they count as in an estimate.
    """
    total = 3
    for message in body.get("messages", ()):
        total += 3 + length(str(message.get("role", "")))
        content = message.get("content") or ""
        if isinstance(content, str):
            total += length(content)
        else:
            total += sum(length(str(part["text"])) for part in content if "text" in part)
            total += input_tokens({"messages": [{"content": [part for part in content if "text" not in part]}]}) - 4
        if "name" in message:
            total += 1 + length(str(message["name"]))
        total += sum(length(str(call.get("function", call))) for call in message.get("tool_calls") or ())
    tools = body.get("tools") or ()
    if tools:
        # 12 for all, 7 for each and 3 for each parameter, beside their words.
        total += 12 + sum(_tool_tokens(tool, length) for tool in tools)
    return total


def _tool_tokens(tool: Mapping[str, Any], length: Callable[[str], int]) -> int:
    function = tool.get("function") or tool
    total = 7 + length(f"{function.get('name', '')}:{str(function.get('description', '')).rstrip('.')}")
    properties = (function.get("parameters") or {}).get("properties") or {}
    if properties:
        total += 3
    for name, said in properties.items():
        described = said if isinstance(said, Mapping) else {}
        line = f"{name}:{described.get('type', '')}:{str(described.get('description', '')).rstrip('.')}"
        total += 3 + length(line)
        if listed := described.get("enum"):
            total += -3 + sum(3 + length(str(value)) for value in listed)
    return total
