"""The known providers: who they are, where they listen, which variable has the key, and what they speak.

Base URLs are the providers' own, as their documentation gave them in 2026. What a dialect rests on is told in
``wire.dialect``.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qs, quote

import attrs

from .errors import ConfigurationError
from .wire.dialect import (
    AZURE,
    BEDROCK,
    CEREBRAS,
    CLOUD,
    COHERE,
    DASHSCOPE,
    DEEPSEEK,
    EFFORT,
    FIREWORKS,
    GENERIC,
    LLAMACPP,
    MINIMAX,
    MISTRAL,
    MOONSHOT,
    OPENAI,
    OPENROUTER,
    SGLANG,
    TOGETHER,
    VLLM,
    XAI,
    ZAI,
    Dialect,
)

__all__ = ["PROVIDERS", "Provider", "azure_base_url", "find_provider", "provider_for_url", "provider_named"]


@attrs.frozen
class Provider:
    """A row of the table.

    ``key_variable`` is empty where no key is needed. ``hosts`` tell the provider by a base URL: names, in which ``*``
    stands for anything, or a ``:port`` of this machine. ``api_path`` is what follows a bare host, where it is known.
    """

    name: str
    base_url: str
    key_variable: str = ""
    dialect: Dialect = GENERIC
    hosts: tuple[str, ...] = ()
    api_path: str | None = None

    @property
    def local(self) -> bool:
        """Runs on the user's own machine, without a key."""
        return self.base_url.startswith("http://localhost")

    def address(self, environ: Mapping[str, str]) -> str:
        """Where it is: as its own environment variable says, else as the table does; empty where neither does."""
        if self.name == "ollama" and (host := environ.get("OLLAMA_HOST")):
            return _ollama_url(host)
        if self.name == "azure":
            return environ.get("AZURE_OPENAI_ENDPOINT", "")
        return self.base_url


PROVIDERS: dict[str, Provider] = {
    row.name: row
    for row in (
        #        name          base URL                                       key variable          dialect     hosts
        Provider("openai",     "https://api.openai.com/v1",                   "OPENAI_API_KEY",     OPENAI,     ("api.openai.com", "*.api.openai.com")),
        Provider("azure",      "",                                            "AZURE_OPENAI_API_KEY", AZURE,    ("*.openai.azure.com",)),
        Provider("ollama",     "http://localhost:11434/v1",                   "",                   EFFORT,     (":11434",)),
        Provider("lmstudio",   "http://localhost:1234/v1",                    "",                   EFFORT,     (":1234",)),
        Provider("llamacpp",   "http://localhost:8080/v1",                    "",                   LLAMACPP,   (":8080",)),
        Provider("vllm",       "http://localhost:8000/v1",                    "",                   VLLM,       (":8000",)),
        Provider("sglang",     "http://localhost:30000/v1",                   "",                   SGLANG,     (":30000",)),
        Provider("jan",        "http://localhost:1337/v1",                    "",                   GENERIC,    (":1337",)),
        Provider("koboldcpp",  "http://localhost:5001/v1",                    "",                   GENERIC,    (":5001",)),
        Provider("litellm",    "http://localhost:4000/v1",                    "",                   EFFORT,     (":4000",)),
        Provider("tgi",        "http://localhost:3000/v1",                    "",                   GENERIC),
        # tgi and localai listen where other programs do too: they are told by their names alone.
        Provider("localai",    "http://localhost:8080/v1",                    "",                   EFFORT),
        Provider("openrouter", "https://openrouter.ai/api/v1",                "OPENROUTER_API_KEY", OPENROUTER, ("openrouter.ai",)),
        Provider("groq",       "https://api.groq.com/openai/v1",              "GROQ_API_KEY",       CLOUD,      ("api.groq.com",)),
        Provider("mistral",    "https://api.mistral.ai/v1",                   "MISTRAL_API_KEY",    MISTRAL,    ("api.mistral.ai",)),
        Provider("deepseek",   "https://api.deepseek.com/v1",                 "DEEPSEEK_API_KEY",   DEEPSEEK,   ("api.deepseek.com",)),
        Provider("together",   "https://api.together.xyz/v1",                 "TOGETHER_API_KEY",   TOGETHER,   ("api.together.xyz", "api.together.ai")),
        Provider("fireworks",  "https://api.fireworks.ai/inference/v1",       "FIREWORKS_API_KEY",  FIREWORKS,  ("api.fireworks.ai",)),
        Provider("gemini",     "https://generativelanguage.googleapis.com/v1beta/openai", "GEMINI_API_KEY", CLOUD, ("generativelanguage.googleapis.com",)),
        Provider("xai",        "https://api.x.ai/v1",                         "XAI_API_KEY",        XAI,        ("api.x.ai",)),
        Provider("dashscope",  "https://dashscope-intl.aliyuncs.com/compatible-mode/v1", "DASHSCOPE_API_KEY", DASHSCOPE, ("dashscope-intl.aliyuncs.com", "dashscope.aliyuncs.com", "dashscope-us.aliyuncs.com")),
        Provider("zai",        "https://api.z.ai/api/paas/v4",                "ZAI_API_KEY",        ZAI,        ("api.z.ai", "open.bigmodel.cn")),
        Provider("moonshot",   "https://api.moonshot.ai/v1",                  "MOONSHOT_API_KEY",   MOONSHOT,   ("api.moonshot.ai", "api.moonshot.cn")),
        Provider("minimax",    "https://api.minimax.io/v1",                   "MINIMAX_API_KEY",    MINIMAX,    ("api.minimax.io", "api.minimaxi.com")),
        Provider("cerebras",   "https://api.cerebras.ai/v1",                  "CEREBRAS_API_KEY",   CEREBRAS,   ("api.cerebras.ai",)),
        Provider("sambanova",  "https://api.sambanova.ai/v1",                 "SAMBANOVA_API_KEY",  GENERIC,    ("api.sambanova.ai",)),
        Provider("nvidia",     "https://integrate.api.nvidia.com/v1",         "NVIDIA_API_KEY",     GENERIC,    ("integrate.api.nvidia.com",)),
        Provider("perplexity", "https://api.perplexity.ai",                   "PERPLEXITY_API_KEY", EFFORT,     ("api.perplexity.ai",), ""),
        Provider("cohere",     "https://api.cohere.ai/compatibility/v1",      "COHERE_API_KEY",     COHERE,     ("api.cohere.ai", "api.cohere.com")),
        Provider("bedrock",    "https://bedrock-runtime.us-west-2.amazonaws.com/openai/v1", "AWS_BEARER_TOKEN_BEDROCK", BEDROCK, ("bedrock-runtime.*.amazonaws.com",)),
        # LiteLLM's name of the variable: HF_TOKEN is set for other purposes, and would choose this one.
        Provider("huggingface", "https://router.huggingface.co/v1",           "HUGGINGFACE_API_KEY", EFFORT,    ("router.huggingface.co",)),
    )
}  # fmt: skip


def provider_named(name: str) -> Provider:
    """The row for ``name``.

    Raises:
        ConfigurationError: no such provider; lists those that are known.
    """
    try:
        return PROVIDERS[name.lower()]
    except KeyError:
        from difflib import get_close_matches

        near = get_close_matches(name.lower(), PROVIDERS, 1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ConfigurationError(f"unknown provider {name!r}{hint}; known are {', '.join(PROVIDERS)}") from None


def refuse_provider(base_url: object) -> None:
    """Say that a base URL is none, but the name of a provider.

    Raises:
        ConfigurationError: it is.
    """
    known = PROVIDERS.get(base_url.strip().lower()) if isinstance(base_url, str) else None
    if known is not None:
        address = f", or {known.base_url} as the base URL" if known.base_url else ""
        raise ConfigurationError(f"{known.name} is a provider, not a base URL: give it as the provider{address}")


def provider_for_url(host: str, port: int | None) -> Provider | None:
    """The provider that listens at a host, or on a port of this machine; None where it is not known."""
    here = f":{port}" if host in ("localhost", "127.0.0.1", "::1") else ""
    for provider in PROVIDERS.values():
        for known in provider.hosts:
            if known == here or _matches(host, known):
                return provider
    return None


def _matches(host: str, known: str) -> bool:
    if known.startswith(":"):
        return False
    head, star, tail = known.partition("*")
    if not star:
        return host == known
    return host.startswith(head) and host.endswith(tail) and len(host) > len(head) + len(tail)


def find_provider(name: str | None, host: str, port: int | None) -> Provider | None:
    """The provider of this name, or without a name the one at this address; None where it is not known."""
    return provider_for_url(host, port) if name is None else PROVIDERS.get(name.lower())


def azure_base_url(base: str, query: str, model: str | None) -> str:
    """A bare Azure address names the resource only: the deployment is the model, unless the new API is meant.

    Args:
        base: without a query and without a trailing slash.
        query: the address's own; one with an ``api-version`` means the API of deployments.

    Raises:
        ConfigurationError: no model, or one that cannot name a deployment.
    """
    root = base.removesuffix("/v1")
    if root.count("/") > 2:
        return base
    if "api-version" not in parse_qs(query):
        return f"{root}/openai/v1"
    if not model:
        raise ConfigurationError("Azure with api-version needs model=, the name of the deployment")
    if model in (".", ".."):
        raise ConfigurationError(f"{model!r} cannot be the name of a deployment")
    return f"{root}/openai/deployments/{quote(model, safe='')}"


def _ollama_url(host: str) -> str:
    """``OLLAMA_HOST`` as Ollama reads it: scheme and port may be missing, 0.0.0.0 is this machine."""
    scheme, _, rest = host.rpartition("://")
    name, colon, port = rest.rstrip("/").partition(":")
    return f"{scheme or 'http'}://{'127.0.0.1' if name in ('', '0.0.0.0') else name}:{port if colon else 11434}/v1"
