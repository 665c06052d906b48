"""A request as it went out, without its secrets: what a bug report needs of it."""

from __future__ import annotations

import re
from collections.abc import Mapping

import attrs

MAX_ARGUMENT = 65536
"""Bytes of a body that stand in the command line itself; Linux takes no argument of 128 KiB."""
_NOT_NEEDED = {
    *("accept", "accept-encoding", "connection", "content-length", "host", "idempotency-key", "user-agent"),
}
_PLAIN = re.compile(r"[\w .:-]*").fullmatch


@attrs.frozen
class SentRequest:
    """A request as it went out.

    Args:
        method: ``"POST"`` or ``"GET"``.
        url: the whole of it; what is secret in its query is ``***``.
        headers: in place of a secret stands the name of a variable of the shell, such as ``$OPENAI_API_KEY``.
        body: the JSON that was sent; secrets of the client are ``***`` in it too. None where there was none.
        hidden: the names of the headers in which something was replaced.
    """

    method: str
    url: str
    headers: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    body: bytes | None = attrs.field(default=None, repr=False)
    hidden: frozenset[str] = attrs.field(default=frozenset(), repr=False)

    def curl(self) -> str:
        """The request as a command for a POSIX shell, which can be pasted into a bug report, and run.

        The key is ``$OPENAI_API_KEY``, expanded by the shell that runs it. A body of more than 64 KiB is read from a
        here-document.
        """
        import shlex

        words = ["curl", "-sS"]
        if b'"stream":true' in (self.body or b"")[-4096:] or b'"stream":true' in (self.body or b"")[:4096]:
            words.append("-N")
        if self.method != ("GET" if self.body is None else "POST"):
            words += ["-X", shlex.quote(self.method)]
        if set("[]{}") & set(self.url):
            words.append("-g")
        if "/." in self.url:
            words.append("--path-as-is")
        words.append(shlex.quote(self.url))
        for name, value in self.headers.items():
            if name.lower() not in _NOT_NEEDED:
                words += ["-H", self._header(name, value)]
        if self.body is None:
            return " ".join(words)
        text = self.body.decode("utf-8", "replace")
        if len(self.body) > MAX_ARGUMENT:
            end = "JSON"
            while f"\n{end}\n" in f"\n{text}\n":
                end += "_"
            return f"{' '.join(words)} --data-binary @- <<'{end}'\n{text}\n{end}"
        return f"{' '.join(words)} --data-raw {shlex.quote(text)}"

    def _header(self, name: str, value: str) -> str:
        import shlex

        if name not in self.hidden:
            # After a colon alone, curl would send no such header.
            return shlex.quote(f"{name}: {value}" if value.strip() else f"{name};")
        said, _, variable = f"{name}: {value}".rpartition("$")
        # The shell has to see the variable, and nothing else of what stands there.
        return f'"{said}${variable}"' if _PLAIN(said) else f'{shlex.quote(said)}"${variable}"'
