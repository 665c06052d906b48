"""Every target by its name: a function of bytes that raises where a promise is broken."""

from __future__ import annotations

from collections.abc import Callable

from . import given, places, replies, shown, values

TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target
    for target in (
        *(replies.payloads, replies.stream, replies.chunk_template, replies.tool_calls, replies.deltas),
        *(replies.reply, replies.error_body, replies.rejection, replies.embeddings, replies.models),
        *(replies.partial_json, replies.reasoning),
        *(values.decoded, values.converted, values.typed_answer, values.raw_schema, values.pattern),
        *(shown.html, shown.markdown, shown.redacted),
        *(places.http1, places.inflated, places.base_url, places.headers),
        *(given.conversation, given.messages, given.media),
    )
}
