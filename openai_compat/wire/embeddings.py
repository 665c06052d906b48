"""Vectors, and replies to them: buffers of numbers, without a Python float for each where the server sends base64."""

from __future__ import annotations

import base64
import math
import sys
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import msgspec

from .._json import NotJSONError, as_int, as_text, decode_json
from .._rich_display import RichDisplay
from ..errors import ConfigurationError, ResponseShapeError
from .error_body import find_error, status_error
from .messages import Usage
from .parse import decode_body
from .prices import Charge, cost_of
from .response import CallInfo, ReplyInfo
from .retry import Attempt

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

    Vector = memoryview[float]
else:
    Vector = memoryview

_CODES = {"float32": "f", "int8": "b", "uint8": "B", "binary": "b", "ubinary": "B"}
"""How the numbers of a vector are stored. ``binary`` and ``ubinary`` are eight dimensions a number, one a bit."""
_PACKED = ("binary", "ubinary")


def _as_vectors(vectors: Iterable[Any]) -> tuple[Vector, ...]:
    return tuple(vector if isinstance(vector, memoryview) else _packed(vector) for vector in vectors)


def _packed(numbers: Iterable[float]) -> Vector:
    return memoryview(array("f", numbers).tobytes()).cast("f")


def _view(packed: bytes, code: str) -> Vector:
    view: Any = memoryview(packed)
    vector: Vector = view.cast(code)
    return vector


def _show_vectors(vectors: Sequence[Vector]) -> str:
    numbers = {"f": "float32", "b": "int8", "B": "uint8"}.get(vectors[0].format if vectors else "f", "numbers")
    return f"<{len(vectors)} × {len(vectors[0]) if vectors else 0} {numbers}>"


@attrs.frozen(kw_only=True)
class EmbeddingResponse(RichDisplay):
    """Vectors in the order of the inputs.

    Each vector is a read-only ``memoryview`` of float32 numbers: ``numpy.asarray(answer.embedding)`` copies nothing,
    ``list(answer.embedding)`` is Python floats, and ``numpy.asarray(answer)`` has all vectors as its rows. Where
    ``dtype`` is ``"int8"`` or ``"uint8"`` they are such integers; where it is ``"binary"`` (int8) or ``"ubinary"``
    (uint8) each number holds eight dimensions, one a bit.
    """

    vectors: tuple[Vector, ...] = attrs.field(converter=_as_vectors, repr=_show_vectors)
    model: str = ""
    provider: str = ""
    dtype: str = "float32"
    usage: Usage | None = None
    latency_ms: float = attrs.field(default=0.0, eq=False)
    request_id: str | None = attrs.field(default=None, eq=False)
    headers: Mapping[str, str] = attrs.field(factory=dict, eq=False, repr=False)
    raw: Mapping[str, Any] = attrs.field(factory=dict, eq=False, repr=False)
    attempts: tuple[Attempt, ...] = attrs.field(default=(), eq=False, repr=False)
    charges: tuple[Charge, ...] = attrs.field(default=(), eq=False, repr=False)

    @property
    def embedding(self) -> Vector:
        """The first vector."""
        return self.vectors[0]

    @property
    def dims(self) -> int:
        """Dimensions of a vector."""
        return len(self.vectors[0]) * (8 if self.dtype in _PACKED else 1)

    @property
    def input_tokens(self) -> int:
        """Tokens of the inputs; 0 where nothing was reported."""
        return (self.usage and self.usage.input_tokens) or 0

    @property
    def cost(self) -> float | None:
        """US dollars; as ``ChatResponse.cost``."""
        return cost_of(self.charges)

    def normalized(self) -> EmbeddingResponse:
        """The same with float32 vectors of length 1, so that a dot product is a cosine; a zero vector stays.

        Raises:
            ConfigurationError: the vectors are of bits.
        """
        if self.dtype in _PACKED:
            raise ConfigurationError(f"vectors of dtype {self.dtype!r} are compared by their bits, and have no length")
        return attrs.evolve(self, vectors=tuple(_normalized(vector) for vector in self.vectors), dtype="float32")

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        """The vectors as the rows of a NumPy array, of float32 or of what ``dtype`` says that they are: a copy.

        Raises:
            ValueError: no copy was wanted.
        """
        import numpy

        if copy is False:
            raise ValueError("the vectors lie apart, and an array of them is a copy; numpy.asarray(vector) is none")
        code = _CODES.get(self.dtype, "f")
        rows = [numpy.asarray(vector) for vector in self.vectors]
        return numpy.stack(rows).astype(dtype or code, copy=False) if rows else numpy.empty((0, 0), dtype or code)

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
    code = _CODES.get(fields.get("dtype", "float32"), "f")
    fields["vectors"] = tuple(_view(packed, code) for packed in fields["vectors"])
    return EmbeddingResponse(**fields)


def _normalized(vector: Vector) -> Vector:
    length = math.sqrt(math.fsum(number * number for number in vector))
    return _packed(number / (length or 1) for number in vector)


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
    reply: ReplyInfo = ReplyInfo(),  # noqa: B008 - a frozen value
    secrets: Iterable[str] = (),
    dtype: str = "float32",
) -> EmbeddingResponse:
    """The vectors in a reply with HTTP 200: base64 or numbers, whatever was asked for.

    Args:
        count: how many inputs were sent.
        reply: what came with the body.
        secrets: the caller's keys, masked wherever the server echoes them.
        dtype: which numbers were asked for: ``vector_dtype`` of the body.

    Raises:
        ResponseParseError: not JSON.
        APIStatusError: the body is an error.
        ResponseShapeError: no data, a vector that is missing, or not finite, or cannot be told to belong to a text.
    """
    info = call or CallInfo()
    try:
        items, model, usage, raw = _read_fast(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError, TypeError):
        payload = decode_body(body, provider=info.provider, request_id=reply.request_id, secrets=secrets)
        if find_error(payload) is not None:
            raise status_error(
                200,
                reply.headers or {},
                bytes(body),
                provider=info.provider,
                url=reply.url,
                request_id=reply.request_id,
                secrets=secrets,
            ) from None
        items, model, usage, raw = _read_slow(payload)
    try:
        vectors, dtype = _vectors(_in_order(items, count), dtype)
        if len({len(vector) for vector in vectors}) > 1:
            raise _Misshapen("the vectors have different dimensions")
    except _Misshapen as misshapen:
        raise ResponseShapeError(
            f"bad embeddings from {info.provider or 'the server'}: {misshapen}",
            provider=info.provider,
            request_id=reply.request_id,
        ) from None
    counted = Usage.from_wire(usage)
    return EmbeddingResponse(
        vectors=vectors,
        model=as_text(model) or info.model,
        provider=info.provider,
        dtype=dtype,
        usage=counted,
        latency_ms=reply.latency_ms,
        request_id=reply.request_id,
        headers=reply.headers or {},
        raw=raw,
        charges=(info.charge(counted, as_text(model)),),
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
    """The same from a decoded body of any shape: bare lists, one object, NaN inside, keys that are missing."""
    envelope = payload if isinstance(payload, dict) else {"data": payload}
    name = next((key for key in ("data", "embeddings", "embedding") if envelope.get(key) is not None), "data")
    data = envelope.get(name)
    if name == "embedding":
        data = [envelope]
    elif isinstance(data, dict) or (isinstance(data, list) and data and all(map(_is_number, data))):
        data = [data]
    pairs = [
        (item.get("index"), item.get("embedding")) if isinstance(item, dict) else (None, item)
        for item in (data if isinstance(data, list) else ())
        if isinstance(item, (dict, list)) or (name == "embeddings" and isinstance(item, str))
    ]
    raw = {key: value for key, value in envelope.items() if key != name}
    return pairs, envelope.get("model"), envelope.get("usage"), raw


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


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
        raise _Misshapen(f"index is not each of 0 to {count - 1} once: {[as_int(index) for index, _ in pairs[:10]]}")
    return [by_index[index] for index in range(count)]


_either = msgspec.json.Decoder(bytes | list[float])
"""Base64 or numbers; msgspec decodes the first three times as fast as binascii with a string in between."""


def _vectors(embeddings: list[Any], dtype: str) -> tuple[tuple[Vector, ...], str]:
    """The vectors, and what they are: a server that was asked for integers may send floats all the same."""
    if dtype != "float32":
        embeddings = [_decoded(one) if isinstance(one, msgspec.Raw) else one for one in embeddings]
        if any(isinstance(one, list) and not all(_is_whole(number) for number in _flat(one)) for one in embeddings):
            dtype = "float32"
    return tuple(_vector(one, dtype) for one in embeddings), dtype


def _is_whole(number: Any) -> bool:
    return _is_number(number) and (isinstance(number, int) or number.is_integer())


def _vector(embedding: Any, dtype: str) -> Vector:
    """A vector from base64 or numbers, decoded or still as JSON."""
    if isinstance(embedding, msgspec.Raw):
        try:
            embedding = _either.decode(embedding)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            embedding = _decoded(embedding)
    if isinstance(embedding, str):
        embedding = _unpacked(embedding)
    if isinstance(embedding, bytes):
        return _from_bytes(embedding, dtype)
    if not isinstance(embedding, list) or not embedding:
        raise _Misshapen("an embedding is missing or empty")
    numbers = _flat(embedding)
    code = _CODES.get(dtype, "f")
    try:
        if code != "f":
            return _view(array(code, map(int, numbers)).tobytes(), code)
        return _checked(array("f", numbers).tobytes())
    except (TypeError, OverflowError):
        what = "a finite number" if code == "f" else f"of dtype {dtype}"
        raise _Misshapen(f"a vector has something in it that is not {what}") from None


def _flat(embedding: list[Any]) -> list[Any]:
    """The numbers of a vector, which may stand in a list of their own."""
    if not embedding or not isinstance(embedding[0], list):
        return embedding
    if len(embedding) > 1:
        raise _Misshapen("it has a vector for each token, not one for the text: give the server a pooling (mean, cls)")
    return _flat(embedding[0])


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


def _from_bytes(packed: bytes, dtype: str) -> Vector:
    if dtype not in _CODES:
        raise _Misshapen(f"an embedding of dtype {dtype} in base64 cannot be read; ask for floats")
    if not packed or (dtype == "float32" and len(packed) % 4):
        raise _Misshapen(f"an embedding of {len(packed)} bytes is not {dtype}")
    if dtype != "float32":
        return _view(packed, _CODES[dtype])
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
