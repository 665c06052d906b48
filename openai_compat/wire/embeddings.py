"""Embeddings: bodies and vectors. Float32 buffers, without a Python float per number where the server sends base64."""

from __future__ import annotations

import base64
import math
import sys
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import msgspec

from ..errors import APIError, ConfigurationError, ResponseShapeError
from .decode import NotJSONError, as_int, as_text, decode_json
from .error_body import find_error, status_error
from .messages import Usage
from .parse import decode_body
from .response import CallInfo
from .retry import Attempt

if TYPE_CHECKING:
    Vector = memoryview[float]
else:
    Vector = memoryview

ENCODING_FORMATS = ("base64", "float")


def build_embeddings_body(
    inputs: str | Sequence[str],
    *,
    model: str,
    encoding_format: str | None = "base64",
    dimensions: int | None = None,
    user: str | None = None,
    extra_body: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The body of an embeddings request.

    Raises:
        ConfigurationError: no model, nothing to embed, an empty text, or an unknown ``encoding_format``.
    """
    if not model:
        raise ConfigurationError("no model: give model=, or one to the client")
    texts = [inputs] if isinstance(inputs, str) else list(inputs)
    if not texts:
        raise ConfigurationError("nothing to embed: the list of texts is empty")
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise ConfigurationError(f"input {position} to embed is a {type(text).__name__}, not a string")
        if not text:
            raise ConfigurationError(f"input {position} to embed is empty")
    if encoding_format not in (None, *ENCODING_FORMATS):
        raise ConfigurationError(f"encoding_format must be 'base64', 'float' or None, not {encoding_format!r}")
    body: dict[str, Any] = {"model": model, "input": inputs if isinstance(inputs, str) else texts}
    if encoding_format is not None:
        body["encoding_format"] = encoding_format
    if dimensions is not None:
        body["dimensions"] = dimensions
    if user is not None:
        body["user"] = user
    body.update(extra_body or {})
    return body


def _as_vectors(vectors: Iterable[Any]) -> tuple[Vector, ...]:
    return tuple(vector if isinstance(vector, memoryview) else _packed(vector) for vector in vectors)


def _packed(numbers: Iterable[float]) -> Vector:
    return memoryview(array("f", numbers).tobytes()).cast("f")


def _show_vectors(vectors: Sequence[Vector]) -> str:
    return f"<{len(vectors)} × {len(vectors[0]) if vectors else 0} float32>"


@attrs.frozen(kw_only=True)
class EmbeddingResponse:
    """Vectors in the order of the inputs.

    Each vector is a read-only ``memoryview`` of float32 numbers: ``numpy.asarray(answer.embedding)`` copies nothing,
    ``list(answer.embedding)`` gives Python floats.
    """

    vectors: tuple[Vector, ...] = attrs.field(converter=_as_vectors, repr=_show_vectors)
    model: str = ""
    provider: str = ""
    usage: Usage | None = None
    latency_ms: float = attrs.field(default=0.0, eq=False)
    request_id: str | None = attrs.field(default=None, eq=False)
    headers: Mapping[str, str] = attrs.field(factory=dict, eq=False, repr=False)
    raw: Mapping[str, Any] = attrs.field(factory=dict, eq=False, repr=False)
    attempts: tuple[Attempt, ...] = attrs.field(default=(), eq=False, repr=False)

    def _repr_html_(self) -> str:
        from .._html import embeddings_html

        return embeddings_html(self)

    def _repr_markdown_(self) -> str:
        from .._html import embeddings_markdown

        return embeddings_markdown(self)

    @property
    def embedding(self) -> Vector:
        """The first vector."""
        return self.vectors[0]

    @property
    def dims(self) -> int:
        """Numbers in a vector."""
        return len(self.vectors[0])

    @property
    def input_tokens(self) -> int:
        """Tokens of the inputs; 0 where nothing was reported."""
        return (self.usage and self.usage.input_tokens) or 0

    def normalized(self) -> EmbeddingResponse:
        """The same with vectors of length 1, so that a dot product is a cosine; a zero vector stays."""
        return attrs.evolve(self, vectors=tuple(_normalized(vector) for vector in self.vectors))

    def __len__(self) -> int:
        return len(self.vectors)

    def __iter__(self) -> Iterator[Vector]:
        return iter(self.vectors)

    def __reduce__(self) -> tuple[Any, ...]:
        # A memoryview cannot be pickled; its bytes can.
        fields = {field.name: getattr(self, field.name) for field in attrs.fields(type(self))}
        fields["vectors"] = [bytes(vector) for vector in self.vectors]
        return _restore, (fields,)


def _restore(fields: dict[str, Any]) -> EmbeddingResponse:
    fields["vectors"] = tuple(memoryview(packed).cast("f") for packed in fields["vectors"])
    return EmbeddingResponse(**fields)


def _normalized(vector: Vector) -> Vector:
    length = math.sqrt(math.fsum(number * number for number in vector))
    return _packed(number / length for number in vector) if length else vector


class _Item(msgspec.Struct):
    """An item of ``data``, its vector still as the bytes that came."""

    embedding: msgspec.Raw = msgspec.Raw()
    index: Any = None


_items = msgspec.json.Decoder(list[_Item])


class _Envelope(msgspec.Struct):
    """The body with ``data`` set aside, so that a large one is not decoded into Python objects."""

    data: msgspec.Raw = msgspec.Raw()
    model: Any = None
    usage: Any = None
    error: Any = None


_envelope = msgspec.json.Decoder(_Envelope)


def parse_embeddings_response(
    body: bytes | bytearray,
    *,
    count: int = 1,
    call: CallInfo | None = None,
    latency_ms: float = 0.0,
    request_id: str | None = None,
    headers: Mapping[str, str] | None = None,
    secrets: Iterable[str] = (),
    url: str = "",
) -> EmbeddingResponse:
    """The vectors in a reply with HTTP 200: base64 or floats, whatever was asked for.

    Args:
        count: how many texts were sent.

    Raises:
        ResponseParseError: not JSON.
        APIStatusError: the body is an error.
        ResponseShapeError: no data, a vector that is missing, or not finite, or cannot be told to belong to a text.
    """
    info = call or CallInfo()
    try:
        items, model, usage, raw = _read_fast(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError, TypeError):
        payload = decode_body(body, provider=info.provider, request_id=request_id)
        if find_error(payload) is not None:
            raise status_error(
                200,
                headers or {},
                bytes(body),
                provider=info.provider,
                url=url,
                request_id=request_id,
                secrets=secrets,
            ) from None
        items, model, usage, raw = _read_slow(payload)
    try:
        vectors = tuple(_vector(item) for item in _in_order(items, count))
        if len({len(vector) for vector in vectors}) > 1:
            raise _Misshapen("the vectors have different dimensions")
    except _Misshapen as misshapen:
        error: APIError = ResponseShapeError(
            f"bad embeddings from {info.provider or 'the server'}: {misshapen}",
            provider=info.provider,
            request_id=request_id,
        )
        raise error from None
    return EmbeddingResponse(
        vectors=vectors,
        model=as_text(model) or info.model,
        provider=info.provider,
        usage=Usage.from_wire(usage),
        latency_ms=latency_ms,
        request_id=request_id,
        headers=headers or {},
        raw=raw,
    )


class _Misshapen(Exception):  # noqa: N818 - carries a reason, is never seen
    pass


_Read = tuple[list[tuple[Any, Any]], Any, Any, dict[str, Any]]


def _read_fast(body: bytes | bytearray) -> _Read:
    """``(index, embedding)`` pairs whose embeddings are views of the body; raises for any other shape."""
    envelope = _envelope.decode(body)
    items = _items.decode(envelope.data)
    if envelope.error or not items:
        raise TypeError("not the common shape")
    pairs = [(item.index, item.embedding) for item in items]
    return pairs, envelope.model, envelope.usage, {"model": envelope.model, "usage": envelope.usage}


def _read_slow(payload: Any) -> _Read:
    """The same from a decoded body of any shape: a bare list, one object, NaN inside, keys that are missing."""
    envelope = payload if isinstance(payload, dict) else {"data": payload}
    data = envelope.get("data")
    if data is None and "embedding" in envelope:
        data = [envelope]
    if isinstance(data, dict):
        data = [data]
    items = data if isinstance(data, list) else []
    pairs = [(item.get("index"), item.get("embedding")) for item in items if isinstance(item, dict)]
    raw = {key: value for key, value in envelope.items() if key != "data"}
    return pairs, envelope.get("model"), envelope.get("usage"), raw


def _in_order(pairs: list[tuple[Any, Any]], count: int) -> list[Any]:
    """The embeddings in the order of the inputs. A vector that may belong to another text is refused."""
    if not pairs:
        raise _Misshapen("no data")
    if len(pairs) != count:
        raise _Misshapen(f"{len(pairs)} vectors for {count} inputs")
    if all(index is None for index, _ in pairs):
        return [embedding for _, embedding in pairs]
    by_index = {as_int(index): embedding for index, embedding in pairs}
    if set(by_index) != set(range(count)):
        raise _Misshapen(f"index is not each of 0 to {count - 1} once: {[index for index, _ in pairs][:10]}")
    return [by_index[index] for index in range(count)]


_either = msgspec.json.Decoder(bytes | list[float])
"""Base64 or numbers; msgspec decodes the first three times as fast as binascii with a string in between."""


def _vector(embedding: Any) -> Vector:
    """A float32 vector, from base64 or numbers, decoded or still as JSON."""
    if isinstance(embedding, msgspec.Raw):
        try:
            embedding = _either.decode(embedding)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            embedding = _decoded(embedding)
    if isinstance(embedding, bytes):
        return _from_bytes(embedding)
    if isinstance(embedding, str):
        return _from_bytes(_unpacked(embedding))
    if isinstance(embedding, list) and len(embedding) == 1 and isinstance(embedding[0], list):
        embedding = embedding[0]
    if not isinstance(embedding, list) or not embedding:
        raise _Misshapen("an embedding is missing or empty")
    try:
        return _checked(array("f", embedding).tobytes())
    except (TypeError, OverflowError):
        raise _Misshapen("a vector has something in it that is not a finite number") from None


def _decoded(embedding: msgspec.Raw) -> Any:
    try:
        return decode_json(bytes(embedding) or b"null")
    except NotJSONError as error:
        raise _Misshapen(str(error)) from None


def _unpacked(text: str) -> bytes:
    """Base64 as lenient servers write it: with line breaks, or without padding."""
    packed = "".join(text.split())
    try:
        return base64.b64decode(packed + "=" * (-len(packed) % 4), validate=True)
    except ValueError as error:
        raise _Misshapen(f"an embedding is not base64: {error}") from None


def _from_bytes(packed: bytes) -> Vector:
    if not packed or len(packed) % 4:
        raise _Misshapen(f"an embedding of {len(packed)} bytes is not float32")
    if sys.byteorder == "big":
        swapped = array("f", packed)
        swapped.byteswap()
        packed = swapped.tobytes()
    return _checked(packed)


def _checked(packed: bytes) -> Vector:
    vector = memoryview(packed).cast("f")
    # The byte with a number's sign and upper exponent: 7f or ff are NaN, infinity, or above 1e38.
    top = packed[3::4] if sys.byteorder == "little" else packed[0::4]
    if (b"\x7f" in top or b"\xff" in top) and not all(math.isfinite(number) for number in vector):
        raise _Misshapen("a vector has a number that is not finite")
    return vector
