"""The known providers: who they are, where they listen, which variable has the key, and what they speak.

Base URLs are the providers' own, as their documentation gave them in 2026.
"""

from __future__ import annotations

import attrs

from .errors import ConfigurationError
from .wire.dialect import AZURE, CLOUD, GENERIC, OPEN_MODELS, OPENAI, Dialect

__all__ = ["PROVIDERS", "Provider", "provider_for_url", "provider_named"]


@attrs.frozen
class Provider:
    """A row of the table. ``key_variable`` is empty where no key is needed; ``host`` tells it by a base URL."""

    name: str
    base_url: str
    key_variable: str = ""
    dialect: Dialect = GENERIC
    host: str = ""

    @property
    def local(self) -> bool:
        """Runs on the user's own machine, without a key."""
        return self.base_url.startswith("http://localhost")


PROVIDERS: dict[str, Provider] = {
    row.name: row
    for row in (
        #        name          base URL                                       key variable          dialect      host
        Provider("openai",     "https://api.openai.com/v1",                   "OPENAI_API_KEY",     OPENAI,      "api.openai.com"),
        Provider("azure",      "",                                            "AZURE_OPENAI_API_KEY", AZURE,     ".openai.azure.com"),
        Provider("ollama",     "http://localhost:11434/v1",                   "",                   GENERIC,     ":11434"),
        Provider("lmstudio",   "http://localhost:1234/v1",                    "",                   GENERIC,     ":1234"),
        Provider("llamacpp",   "http://localhost:8080/v1",                    "",                   GENERIC,     ":8080"),
        Provider("vllm",       "http://localhost:8000/v1",                    "",                   GENERIC,     ":8000"),
        Provider("openrouter", "https://openrouter.ai/api/v1",                "OPENROUTER_API_KEY", OPEN_MODELS, "openrouter.ai"),
        Provider("groq",       "https://api.groq.com/openai/v1",              "GROQ_API_KEY",       CLOUD,       "api.groq.com"),
        Provider("mistral",    "https://api.mistral.ai/v1",                   "MISTRAL_API_KEY",    CLOUD,       "api.mistral.ai"),
        Provider("deepseek",   "https://api.deepseek.com/v1",                 "DEEPSEEK_API_KEY",   CLOUD,       "api.deepseek.com"),
        Provider("together",   "https://api.together.xyz/v1",                 "TOGETHER_API_KEY",   OPEN_MODELS, "api.together.xyz"),
        Provider("fireworks",  "https://api.fireworks.ai/inference/v1",       "FIREWORKS_API_KEY",  OPEN_MODELS, "api.fireworks.ai"),
        Provider("gemini",     "https://generativelanguage.googleapis.com/v1beta/openai", "GEMINI_API_KEY", CLOUD, "generativelanguage.googleapis.com"),
        Provider("xai",        "https://api.x.ai/v1",                         "XAI_API_KEY",        CLOUD,       "api.x.ai"),
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
        raise ConfigurationError(f"unknown provider {name!r}; known are {', '.join(PROVIDERS)}") from None


def provider_for_url(host: str, port: int | None) -> Provider | None:
    """The provider that listens at a host, or on a port of this machine; None where it is not known."""
    for provider in PROVIDERS.values():
        if provider.host.startswith(":"):
            if f":{port}" == provider.host and host in ("localhost", "127.0.0.1", "::1"):
                return provider
        elif host == provider.host or (provider.host.startswith(".") and host.endswith(provider.host)):
            return provider
    return None
