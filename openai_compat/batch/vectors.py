"""The vectors of ``client.map_embeddings``: one by one, or all in one array."""

from __future__ import annotations

import mmap
import os
import sys
from array import array
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from ..errors import ConfigurationError, ResponseShapeError
from .result import EmbeddingResult
from .run import MapRun

if TYPE_CHECKING:
    from typing import Self

    from numpy import float32
    from numpy.typing import NDArray

    from .progress import Progress

_HEADER = 128
"""Bytes of a NumPy file before its numbers."""


class EmbeddingRun:
    """The results of ``client.map_embeddings``, as they come; an iterator and a context manager, like ``MapRun``.

    Texts are taken from what was given only as results are read, and two requests for each worker further.
    """

    def __init__(
        self, batches: MapRun[Any], *, on_error: Literal["keep", "raise"], progress: Progress | None = None
    ) -> None:
        self._batches = batches
        self._on_error = on_error
        self._progress = progress
        self._ready: deque[EmbeddingResult] = deque()
        self.errors: dict[int, Exception] = {}
        """What failed in ``to_array``, by row."""

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> EmbeddingResult:
        while not self._ready:
            batch: Any = next(self._batches, None)
            if batch is None:
                self.close()
                raise StopIteration
            self._ready.extend(batch.response)
        result = self._ready.popleft()
        if self._progress is not None:
            self._progress.add(result)
        if self._on_error == "raise" and result.error is not None:
            self.stop()
            raise result.error
        return result

    def to_array(self, out: str | os.PathLike[str] | None = None) -> NDArray[float32]:
        """All vectors, as the rows of one float32 array in the order of the texts, once all are there.

        What failed is a row of NaN, and stands in ``errors`` by its row. Without NumPy it is a ``memoryview`` of the
        same shape.

        Args:
            out: a file for the array, which is then mapped into memory, read-only, rather than held there:
                ``vectors.npy``, to be opened again by ``numpy.load(out, mmap_mode="r")``. It is made when all is there.

        Raises:
            The first error, where no text has a vector.
            ResponseShapeError: the vectors have different dimensions.
        """
        self.errors = {}
        if out is None:
            held = _Memory()
            self._read_into(held)
            return _as_array(held.numbers, held)
        path = Path(out)
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            with open(part, "wb") as file:
                rows = _File(file)
                self._read_into(rows)
                rows.write_header()
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
        with open(path, "rb") as file:
            mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        return _as_array(mapped[_HEADER:], rows)

    def _read_into(self, rows: _Rows) -> None:
        with self:
            for result in self:
                if result.error is not None:
                    self.errors[result.index] = result.error
                else:
                    rows.put(result.index, memoryview(result.result()).cast("B"))
        if self.errors and not rows.width:
            raise next(iter(self.errors.values()))
        missing = array("f", [float("nan")]) * (rows.width // 4)
        for index in self.errors:
            rows.put(index, memoryview(missing).cast("B"))

    def stop(self) -> tuple[EmbeddingResult, ...]:
        """Take no more texts and end the calls under way, like ``MapRun.stop``."""
        unsaved: tuple[Any, ...] = self._batches.stop()
        return unsaved

    def close(self) -> None:
        """End the run, and close its progress bar and the journal that it opened."""
        self._batches.close()
        if self._progress is not None:
            self._progress.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class _Rows:
    """Rows of float32 numbers, put in any order."""

    def __init__(self) -> None:
        self.width = 0
        """Bytes of a row."""
        self.count = 0

    def put(self, index: int, row: memoryview) -> None:
        if not self.width:
            self.width = len(row)
        if len(row) != self.width:
            raise ResponseShapeError(f"text {index} has {len(row) // 4} dimensions, others have {self.width // 4}")
        self.count = max(self.count, index + 1)
        self.write(index * self.width, row)

    def write(self, place: int, row: memoryview) -> None:
        raise NotImplementedError


def _as_array(numbers: bytearray | memoryview, rows: _Rows) -> NDArray[float32]:
    shape = (rows.count, rows.width // 4)
    try:
        import numpy
    except ImportError:
        if not rows.count:
            raise ConfigurationError("nothing to embed, and an array of nothing needs NumPy") from None
        view: Any = memoryview(numbers).cast("f", shape)
        return view  # type: ignore[no-any-return]
    return numpy.frombuffer(numbers, numpy.float32).reshape(shape)


class _Memory(_Rows):
    def __init__(self) -> None:
        super().__init__()
        self.numbers = bytearray()

    def write(self, place: int, row: memoryview) -> None:
        if place > len(self.numbers):
            self.numbers.extend(bytes(place - len(self.numbers)))
        self.numbers[place : place + len(row)] = row


class _File(_Rows):
    """A NumPy file: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html"""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file

    def write(self, place: int, row: memoryview) -> None:
        self._file.seek(_HEADER + place)
        self._file.write(row)

    def write_header(self) -> None:
        order = "<" if sys.byteorder == "little" else ">"
        said = f"{{'descr': '{order}f4', 'fortran_order': False, 'shape': ({self.count}, {self.width // 4}), }}"
        self._file.seek(0)
        self._file.write(b"\x93NUMPY\x01\x00" + (_HEADER - 10).to_bytes(2, "little"))
        self._file.write(said.encode().ljust(_HEADER - 11) + b"\n")
