"""What a client does for each request of ``map``, ``map_file`` and ``map_embeddings``; a pickle can hold it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from ._base_client import new_id
from .errors import ConfigurationError
from .wire.constrained import constrained_output
from .wire.embeddings import EmbeddingResponse
from .wire.embeddings_request import Input, build_embeddings_body
from .wire.output import Output
from .wire.parse import parse_response
from .wire.request import ChatRequest, build_body
from .wire.response import ChatResponse, ReplyInfo

if TYPE_CHECKING:
    from ._chat_client import ChatClient
    from .batch.files import FileAnswer, FileRequest
    from .batch.result import EmbeddingResult
    from .cancel import CancelToken
    from .timeouts import Timeout


@attrs.frozen(kw_only=True)
class ChatAsker:
    """Prompts, each answered as ``chat`` does, or as ``run_tools`` where there are tools.

    Args:
        fields: of each ``ChatRequest``.
        loop: ``tools`` and whatever else ``run_tools`` takes beside the request.
    """

    client: ChatClient
    fields: dict[str, Any]
    response_type: Any
    repair: int
    loop: Mapping[str, Any]
    timeout: Timeout | float | None
    think_opened: bool

    def make(self, prompt: Any) -> ChatRequest:
        return self.client._request(prompt, self.fields)

    def ask(self, request: ChatRequest, token: CancelToken) -> ChatResponse:
        asking: dict[str, Any] = {"cancel": token, "timeout": self.timeout, "think_opened": self.think_opened}
        if self.loop:
            looped: ChatResponse = self.client.run_tools(
                request, response_type=self.response_type, repair=self.repair, **asking, **self.loop
            )
            return looped
        return self.client._chat_typed(request, self.response_type, self.repair, {"sink": None, **asking})

    def body(self, request: ChatRequest, token: CancelToken) -> dict[str, Any]:
        if not request.model:
            request = self.client._with_model(request, self.client._deadline(self.timeout, token))
        output = self._output(request)
        return self.client._first_body(build_body, request if output is None else output.asked(request))

    def read(self, kept: bytes, request: ChatRequest) -> ChatResponse:
        answer = parse_response(
            kept,
            call=self.client._call_info(request),
            think=self.client._think._replace(opened=self.think_opened),
            several=bool(request.n and request.n > 1),
            make_id=new_id,
        )
        output = constrained_output(request) if self.response_type is None else self._output(request)
        return answer if output is None else output.read(answer)

    def _output(self, request: ChatRequest) -> Output | None:
        return None if self.response_type is None else Output.of(self.response_type, strict=request.strict)


@attrs.frozen(kw_only=True)
class LineAsker:
    """Lines of a file made for OpenAI's Batch API."""

    client: ChatClient
    timeout: Timeout | float | None

    def make(self, line: FileRequest) -> FileRequest:
        return line

    def ask(self, line: FileRequest, token: CancelToken) -> FileAnswer:
        return self.client._ask_line(line, token, timeout=self.timeout)

    def body(self, line: FileRequest, token: CancelToken) -> Mapping[str, Any]:
        return self.client._line_body(line)

    def read(self, kept: bytes, line: FileRequest) -> FileAnswer:
        return self.client._line_answer(line, kept, ReplyInfo())


@attrs.frozen(kw_only=True)
class TextEmbedder:
    """Texts, so many at a time as ``embed`` is given them.

    Args:
        model: none where the server is asked for its models.
        making: what makes another vector of the same text.
    """

    client: ChatClient
    model: str
    making: Mapping[str, Any]
    encoding_format: Any
    normalize: bool
    user: str | None
    timeout: Timeout | float | None

    def ask(self, inputs: Sequence[Any], token: CancelToken) -> EmbeddingResponse:
        answer = self.client.embed(
            inputs,
            model=self.model,
            encoding_format=self.encoding_format,
            user=self.user,
            cancel=token,
            timeout=self.timeout,
            **self.making,
        )
        if answer.dtype != "float32":
            raise ConfigurationError(f"map_embeddings is for float32 vectors, not {answer.dtype}: use embed")
        return answer

    def body(self, text: Input, token: CancelToken) -> dict[str, Any]:
        model = self.model or self.client._first_model(self.client._deadline(self.timeout, token), embeds=True)
        return build_embeddings_body(text, model=model, encoding_format=None, **self.making)

    def finish(self, result: EmbeddingResult) -> EmbeddingResult:
        if not self.normalize or result.embedding is None:
            return result
        return attrs.evolve(result, embedding=EmbeddingResponse(vectors=(result.embedding,)).normalized().embedding)
