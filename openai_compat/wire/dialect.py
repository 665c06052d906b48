"""What each server wants or refuses, as data, and what is learnt from a refusal.

Sources are named beside each fact: a provider's documentation, a server's code, or issues where its users quote it.
Nothing here was tried against a provider's live service. llama.cpp's server is, in this project's tests, and LiteLLM's
proxy was probed (docs/probe.md).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import attrs

from ..errors import APIStatusError, ConfigurationError
from .constraints import DEFAULT, Constraints
from .echo import NO_ECHO, Echo, echoed
from .response_format import SchemaAs, can_be_tool, next_schema_as, set_response_format

if TYPE_CHECKING:
    from .rejections import Rejection

Thinking = Literal[
    "chat_template_kwargs",
    "reasoning_effort",
    "thinking",
    "enable_thinking",
    "reasoning",
    "reasoning.enabled",
    "none",
]

Tokenizer = Literal["none", "ask", "llamacpp", "vllm", "tiktoken"]

_MAX_TOKENS = ("max_tokens", "max_completion_tokens")
_OTHER_NAME = dict(zip(_MAX_TOKENS, reversed(_MAX_TOKENS), strict=True))
_EFFORTS = {"none": 0, "minimal": 1, "low": 2, "medium": 3, "default": 3, "high": 4, "xhigh": 5, "max": 6}
_BESIDE_TOOLS = (
    "reasoning together with tools on Chat Completions (to choose yourself, give reasoning=False, no tools, or a model "
    "that takes both)"
)

_NEVER_OFF = "reasoning=False (this model always thinks; the least of it is asked for)"

# Which variable of its chat template turns a model's thoughts on and off. The documentation of vLLM (reasoning
# outputs), SGLang (separate reasoning) and NVIDIA NIM; the models' own templates. All others: enable_thinking, as
# Qwen3, GLM-4.5 and later, Gemma 4, Hunyuan, SmolLM3 and Nemotron 3 have it.
_TEMPLATE_SWITCHES: tuple[tuple[str, str], ...] = (
    (r"deepseek.*v(?:3\.[1-9]|[4-9])", "thinking"),
    (r"granite-?(?:3\.[2-9]|[4-9])", "thinking"),
    (r"kimi-k(?:2\.[5-9]|[3-9])", "thinking"),
    (r"holo-?[2-9]", "thinking"),
    # gpt-oss always thinks, low, medium or high (its model card).
    (r"gpt-oss", "reasoning_effort"),
)


_DEEPSEEK_ECHO = Echo(field="reasoning_content", whole_turn=True)


def _is_name(dialect: object, field: attrs.Attribute[str], value: str) -> None:
    if not isinstance(value, str) or not re.fullmatch(r"[\w.~-]+", value, re.ASCII):
        raise ConfigurationError(f"{field.name} is a name, not {value!r}")


@attrs.frozen(kw_only=True)
class Dialect:
    """How one server's reading of the format differs.

    Args:
        max_tokens: the name under which the limit on output tokens goes.
        stream_options: whether ``stream_options`` may be sent.
        thinking: where the request to think, or not to, goes. ``chat_template_kwargs``: the chat template's own
            switch, by the model's family; ``reasoning_effort``; ``thinking``: ``{"type": ...}``; ``enable_thinking``;
            ``reasoning``: ``{"effort": ...}``; ``reasoning.enabled``: beside ``reasoning_effort``; ``none``: nowhere.
        thinks: the type of ``thinking`` that turns it on.
        effort: the ``reasoning_effort`` that turns it on.
        efforts: the efforts that it takes; any where empty.
        thinks_beside_tools: whether it reasons where tools are offered.
        schema_as: how the answer's schema is asked for: as ``response_format``, as the parameters of a tool that must
            be called, or in words, with ``json_object`` or without.
        user_after_tool: whether a user message may follow a tool's result.
        leaves_out: body keys that this server refuses, and that are therefore not sent.
        echo: what it wants back of its own answers.
        key_header: the header that carries the key; ``Authorization`` has it as a bearer token.
        constraints: how it is told what an answer may be made of.
        tokenizer: who counts tokens: the server, at the address that llama.cpp or vLLM has for it, or whichever of
            the two answers (``ask``); OpenAI's own ``tiktoken`` on this machine; ``none``: nobody.
    """

    max_tokens: str = attrs.field(default="max_tokens", validator=_is_name)
    stream_options: bool = True
    thinking: Thinking = "chat_template_kwargs"
    thinks: str = "enabled"
    effort: str = "medium"
    efforts: tuple[str, ...] = ()
    thinks_beside_tools: bool = True
    schema_as: SchemaAs = "json_schema"
    user_after_tool: bool = True
    leaves_out: frozenset[str] = frozenset()
    echo: Echo = NO_ECHO
    key_header: str = attrs.field(default="Authorization", validator=_is_name)
    constraints: Constraints = DEFAULT
    tokenizer: Tokenizer = "ask"

    def adapt(self, body: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
        """The body as this server takes it, and the names of what was left out."""
        adapted = dict(body)
        for name in _MAX_TOKENS:
            if name in adapted and name != self.max_tokens and self.max_tokens not in adapted:
                adapted[self.max_tokens] = adapted.pop(name)
        unsupported = self._set_reasoning(adapted)
        if not self.stream_options:
            adapted.pop("stream_options", None)
        if self.schema_as != "json_schema" and "response_format" in adapted:
            set_response_format(adapted, self.schema_as)
        if "messages" in adapted:
            adapted["messages"] = self._history(adapted["messages"])
        left_out = self.leaves_out & adapted.keys()
        for name in left_out:
            del adapted[name]
        return adapted, tuple(sorted({*left_out, *unsupported}))

    def _history(self, messages: Any) -> Any:
        if not isinstance(messages, list) or not all(isinstance(message, Mapping) for message in messages):
            return messages
        if self.echo.field:
            # Thoughts are told where the body is built; here the field is made sure of, also once that was learnt.
            messages = echoed(messages, None, self.echo)
        return messages if self.user_after_tool else _bridged(messages)

    def answers_by_call(self, body: Mapping[str, Any]) -> bool:
        """Whether ``adapt`` turns the schema of this body into a tool; ``tool_call_as_text`` then reads the answer."""
        if self.schema_as != "tool" or "response_format" not in body:
            return False
        return can_be_tool(body)

    def guessed(self) -> Dialect:
        """The same for a server that is known by its port alone, which may be another.

        Choices and expressions go where all take them; another server would ignore a field of vLLM's without a word.
        """
        return attrs.evolve(self, constraints=Constraints(grammar=self.constraints.grammar), tokenizer="ask")

    def asking(self, way: SchemaAs) -> Dialect:
        """The same, with a schema asked for in this way."""
        return self if way == self.schema_as else attrs.evolve(self, schema_as=way)

    def _set_reasoning(self, body: dict[str, Any]) -> set[str]:
        """Ask for reasoning, or for none, where this server reads that; returns what it cannot be asked."""
        template = body.get("chat_template_kwargs")
        switches: dict[str, Any] = dict(template) if isinstance(template, Mapping) else {}
        on: bool | None = switches.get("enable_thinking")
        effort = body.get("reasoning_effort")
        unsupported: set[str] = set()
        if not self.thinks_beside_tools and body.get("tools"):
            if effort != "none" and (effort is not None or on is not False):
                unsupported.add(_BESIDE_TOOLS)
            on, effort = None, "none"
        elif on is None and effort is None:
            if template is not None and self.thinking != "chat_template_kwargs":
                del body["chat_template_kwargs"]
                unsupported.add("chat_template_kwargs")
            return unsupported
        body.pop("reasoning_effort", None)
        body.pop("chat_template_kwargs", None)
        switches.pop("enable_thinking", None)
        if self.thinking == "chat_template_kwargs":
            self._set_template_kwargs(body, switches, on, effort, unsupported)
            return unsupported
        if switches:
            unsupported.add("chat_template_kwargs")
        level = effort if effort is not None else self.effort if on else "none"
        thinks = level != "none"
        taken = self._nearest(level)
        if not thinks and taken != "none" and self.thinking in ("reasoning_effort", "reasoning"):
            unsupported.add(_NEVER_OFF)
        match self.thinking:
            case "reasoning_effort":
                body["reasoning_effort"] = taken
            case "thinking":
                body.setdefault("thinking", {"type": self.thinks if thinks else "disabled"})
            case "enable_thinking":
                body.setdefault("enable_thinking", thinks)
            case "reasoning":
                body.setdefault("reasoning", {"enabled": True} if thinks and effort is None else {"effort": taken})
            case "reasoning.enabled":
                body.setdefault("reasoning", {"enabled": thinks})
            case "none":
                unsupported.add("reasoning_effort" if effort is not None else f"reasoning={on}")
        if thinks and effort is not None and self.thinking in ("thinking", "enable_thinking", "reasoning.enabled"):
            body["reasoning_effort"] = taken
        return unsupported

    def _set_template_kwargs(
        self, body: dict[str, Any], switches: dict[str, Any], on: bool | None, effort: Any, unsupported: set[str]
    ) -> None:
        switch = _template_switch(body.get("model"))
        if effort == "none":
            on, effort = False, None
        elif effort is not None and on is None and switch == "thinking":
            # Off by default in these families.
            on = True
        if on is not None and switch != "reasoning_effort":
            switches[switch] = on
        elif on is False and effort is None:
            effort = "low"
            unsupported.add(_NEVER_OFF)
        if switches:
            body["chat_template_kwargs"] = switches
        if effort is not None:
            body["reasoning_effort"] = self._nearest(effort)

    def _nearest(self, effort: Any) -> Any:
        """The effort nearest to this one that the server takes: the least for none, and never none for another."""
        if not self.efforts or not isinstance(effort, str) or effort in self.efforts or effort not in _EFFORTS:
            return effort
        wanted = _EFFORTS[effort]
        taken = [one for one in self.efforts if one != "none" or not wanted] or list(self.efforts)
        return min(taken, key=lambda one: abs(_EFFORTS.get(one, 3) - wanted))

    def learn(self, error: APIStatusError, body: dict[str, Any]) -> Dialect | None:
        """The dialect that a refusal of ``body`` teaches, or None where it teaches nothing.

        Believed is what the server says of a parameter in ``param`` and ``code``, or in words that name it as servers
        do, unless what was sent holds that name too: then these may be somebody's words that the server repeats. What
        was learnt is worth keeping only once the corrected request has succeeded.
        """
        from .rejections import Rejection

        said = Rejection(error, body)
        if "stream_options" in body and said.refuses("stream_options", "include_usage"):
            return attrs.evolve(self, stream_options=False)
        # A name of its own was chosen by whoever knows the server.
        other = _OTHER_NAME.get(self.max_tokens)
        if (
            other
            and self.max_tokens in body
            and (said.refuses(self.max_tokens) or said.asks_for(other, self.max_tokens))
        ):
            return attrs.evolve(self, max_tokens=other)
        if self.user_after_tool and said.wants_assistant_after_tool():
            return attrs.evolve(self, user_after_tool=False)
        if not self.echo.field and said.misses_reasoning():
            return attrs.evolve(self, echo=_DEEPSEEK_ECHO)
        if "encoding_format" in body and "input" in body and said.refuses("encoding_format"):
            return attrs.evolve(self, leaves_out=self.leaves_out | {"encoding_format"})
        return self._learn_reasoning(said, body) or self._learn_schema(said, body)

    def _learn_reasoning(self, said: Rejection, body: dict[str, Any]) -> Dialect | None:
        if self.thinks_beside_tools and body.get("tools") and said.refuses_reasoning_beside_tools():
            # Said of reasoning_effort, which is then also where "none" goes.
            return attrs.evolve(self, thinks_beside_tools=False, thinking="reasoning_effort", efforts=())
        if body.get("reasoning_effort") is not None and (efforts := said.efforts()) and efforts != self.efforts:
            return attrs.evolve(self, efforts=efforts)
        if not self._reasons(body):
            return None
        if "chat_template_kwargs" in body and said.refuses("chat_template_kwargs"):
            return attrs.evolve(self, thinking="reasoning_effort")
        if self.thinking != "none" and said.refuses("reasoning_effort", "thinking", "enable_thinking", "reasoning"):
            return attrs.evolve(self, thinking="none")
        return None

    @staticmethod
    def _reasons(body: Mapping[str, Any]) -> bool:
        return any(
            key in body
            for key in ("chat_template_kwargs", "reasoning_effort", "thinking", "enable_thinking", "reasoning")
        )

    def _learn_schema(self, said: Rejection, body: dict[str, Any]) -> Dialect | None:
        """Another way to ask for a schema. Which was asked for, the body shows."""
        way = next_schema_as(body, self.schema_as)
        if way is None or not said.refuses_schema():
            return None
        return attrs.evolve(self, schema_as=way)


def _template_switch(model: Any) -> str:
    name = model.lower() if isinstance(model, str) else ""
    return next((switch for family, switch in _TEMPLATE_SWITCHES if re.search(family, name)), "enable_thinking")


def _bridged(messages: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The messages with an assistant's between a tool's result and a user's."""
    made: list[Mapping[str, Any]] = []
    for message in messages:
        if made and message.get("role") == "user" and made[-1].get("role") == "tool":
            made.append({"role": "assistant", "content": "Noted."})
        made.append(message)
    return made


_OF_LOCAL_SERVERS = frozenset({"top_k", "min_p", "repeat_penalty"})

GENERIC = Dialect()
"""Local servers, and every server that is not known: vLLM, SGLang, llama.cpp (which reads ``chat_template_kwargs``; its
``reasoning_effort`` turns nothing off: issues of llama.cpp and hermes-agent), NVIDIA NIM, SambaNova."""
LLAMACPP = attrs.evolve(GENERIC, constraints=Constraints(grammar="grammar", top_logprobs=100), tokenizer="llamacpp")
"""llama.cpp's documentation of its server: ``grammar`` (GBNF), ``pattern`` in a schema, ``/apply-template`` and
``/tokenize``. A choice goes as a schema: a grammar would also bind the thoughts."""
VLLM = attrs.evolve(
    GENERIC,
    constraints=Constraints(choice="structured_outputs", regex="structured_outputs", grammar="structured_outputs"),
    tokenizer="vllm",
)
"""vLLM's documentation (structured outputs: since 0.12 the one name; ``guided_choice`` and its like before)."""
SGLANG = attrs.evolve(GENERIC, constraints=Constraints(choice="regex", regex="regex", grammar="ebnf"))
"""SGLang's documentation (structured outputs: ``regex``, ``ebnf``)."""
EFFORT = Dialect(thinking="reasoning_effort")
"""Servers that read ``reasoning_effort``, "none" included, and take ``top_k``: Ollama (OpenAI compatibility), LM Studio
(its bug tracker, 2057), LocalAI (its issue 10072), LiteLLM, Fireworks, the Hugging Face router, Perplexity."""
FIREWORKS = attrs.evolve(EFFORT, constraints=Constraints(regex="none", grammar="response_format", top_logprobs=5))
"""Documentation of Fireworks (structured outputs: GBNF in ``response_format``; no ``pattern`` in a schema)."""
OPENAI = Dialect(
    max_tokens="max_completion_tokens",
    thinking="reasoning_effort",
    leaves_out=_OF_LOCAL_SERVERS,
    constraints=Constraints(choice="strict", regex="strict"),
    tokenizer="tiktoken",
)
"""Documentation of OpenAI. Which efforts a model takes, and whether beside tools, is learnt: it differs by model."""
AZURE = attrs.evolve(OPENAI, key_header="api-key", constraints=Constraints(choice="strict", regex="none"))
"""Documentation of Azure OpenAI (structured outputs: ``pattern`` is among the keywords that it does not support)."""
CLOUD = Dialect(thinking="reasoning_effort", leaves_out=_OF_LOCAL_SERVERS)
"""Cloud services that take OpenAI's fields and refuse those of local servers: Groq, Gemini."""
XAI = attrs.evolve(CLOUD, constraints=Constraints(top_logprobs=8))
"""Documentation of xAI (chat completions: ``top_logprobs`` is between 0 and 8)."""
OPEN_MODELS = EFFORT
"""Cloud services for open models."""
OPENROUTER = Dialect(thinking="reasoning")
"""Documentation of OpenRouter (reasoning tokens): one form for all models behind it."""
TOGETHER = Dialect(thinking="reasoning.enabled")
"""Documentation of Together; pi's table of compatibilities."""
DEEPSEEK = Dialect(
    thinking="thinking",
    schema_as="json_object",
    leaves_out=_OF_LOCAL_SERVERS,
    echo=_DEEPSEEK_ECHO,
)
"""Documentation of DeepSeek (thinking mode: the switch, the efforts low, high and max, and what must be passed back;
JSON output: no ``json_schema``). Without it: 400 "reasoning_content in the thinking mode must be passed back"."""
MISTRAL = attrs.evolve(CLOUD, effort="high", user_after_tool=False, echo=Echo(inline="parts"))
"""Documentation of Mistral (reasoning: the efforts "none" and "high" of most of its models, thoughts as parts). A user
message after a tool's is its error 3230."""
MOONSHOT = Dialect(
    thinking="thinking",
    leaves_out=_OF_LOCAL_SERVERS | {"reasoning_effort"},
    echo=Echo(field="reasoning_content"),
)
"""Documentation of Kimi. Without the echo: 400 "reasoning_content is missing in assistant tool call message", as from
other hosts of its models, where it is learnt."""
ZAI = Dialect(thinking="thinking", schema_as="json_object", leaves_out=_OF_LOCAL_SERVERS)
"""Documentation of Z.ai (thinking mode; structured output: ``json_object`` alone). Thoughts go back with calls, in the
field that they came in. GLM-5.3 cannot be told not to think, which is learnt."""
MINIMAX = Dialect(
    max_tokens="max_completion_tokens",
    thinking="thinking",
    thinks="adaptive",
    schema_as="json_object",
    leaves_out=_OF_LOCAL_SERVERS | {"reasoning_effort"},
    echo=Echo(inline="tags"),
)
"""Documentation of MiniMax (OpenAI API: the content with its ``<think>`` is to go back whole, or ``reasoning_details``
where ``reasoning_split`` was asked for) and of AgentScope's formatter for it: ``max_tokens`` is deprecated, M2 ignores
the switch and ``response_format``, M3 takes both."""
DASHSCOPE = Dialect(thinking="enable_thinking", leaves_out=frozenset({"min_p", "repeat_penalty", "reasoning_effort"}))
"""Documentation of Alibaba's Model Studio: ``enable_thinking`` and ``top_k`` beside the OpenAI fields."""
CEREBRAS = attrs.evolve(CLOUD, max_tokens="max_completion_tokens")
"""Documentation of Cerebras; it refuses any key that it does not know. gpt-oss takes no "none", which is learnt."""
COHERE = attrs.evolve(CLOUD, efforts=("none", "high"))
"""Documentation of Cohere's compatibility API."""
BEDROCK = attrs.evolve(CLOUD, efforts=("low", "medium", "high"))
"""Documentation of Amazon Bedrock (OpenAI's open-weight models)."""


_INPUTS = r"(?:inputs?|texts?|items?|elements?|documents?|strings?|sentences?|entries|prompts?)"
_BATCH = r"(?<!physical )(?<!logical )\bbatch(?:[ _-]?size)?\b"
_TOO_MANY = rf"\btoo many (?:{_INPUTS}|requests in (?:the|one|a) batch)|\bbatch (?:is|was) too (?:large|big)\b"
_NUMBER_OF = rf"\bnumber of {_INPUTS}"
_MORE = (
    r"(?:(?:larger|greater|more) than|at most|up to|exceed(?:s|ed|ing)?|>|<=?|maximum|max"
    r"|limit(?:ed)?(?: (?:is|of|to))?)"
)
# A whole number, of inputs and of nothing else.
_NUMBER = r"(\d+)(?![\d.,]*\d)(?!\s*-?(?:k?tokens?|characters?|chars?|bytes?|[kmg]i?b\b|dimensions?|seconds?|words?))"
_NUMBER_LIMITS = (
    # "batch size 64 > maximum allowed batch size 32", "array too long. Expected an array with maximum length 2048"
    rf"(?:{_BATCH}|\barray\b|{_NUMBER_OF}|{_TOO_MANY})(?:[^;\n]{{0,80}}?{_MORE}(?: [a-z]+){{0,4}}[\s:=]*{_NUMBER})+",
    # "at most 96 inputs", "List should have at most 2048 items", "at most 100 requests can be in one batch"
    rf"{_MORE}\s*{_NUMBER} (?:{_INPUTS}|requests can be in one batch)\b",
    # "The max number of inputs is 16", "maximum batch size is 128"
    rf"\bmax(?:imum)?(?: [a-z]+){{0,2}} (?:batch[ _-]?size|number of {_INPUTS})(?: is| of| allowed|:|=)*\s*{_NUMBER}",
)


def batch_limit(error: APIStatusError, sent: int) -> int | None:
    """How many inputs to send at once, where a server's refusal of ``sent`` of them is about their number.

    The number that it names, else half of them; None where it speaks of something else, tokens for instance.
    """
    if error.status_code not in (400, 413, 422) or sent < 2:
        return None
    said = str(error)[:2000]
    found = [match for pattern in _NUMBER_LIMITS for match in re.findall(pattern, said, re.IGNORECASE)]
    limits = [int(number) for number in found if len(number) < 10]
    if smaller := [limit for limit in limits if 0 < limit < sent]:
        return min(smaller)
    too_many = not limits and re.search(_TOO_MANY, said, re.IGNORECASE)
    return sent // 2 if too_many else None
