"""Vectors for texts: always the same, of length 1, and near each other where the texts share words."""

from __future__ import annotations

import base64
import math
import random
import re
import struct
from collections.abc import Sequence
from typing import Any

WORD = re.compile(r"\w+")


def vector_of(text: str, dimensions: int) -> list[float]:
    """The vector of a text: the sum of those of its words, made 1 long."""
    total = [0.0] * dimensions
    for word in WORD.findall(text.lower()) or [text]:
        chance = random.Random(word)
        total = [number + chance.gauss(0.0, 1.0) for number in total]
    length = math.sqrt(math.fsum(number * number for number in total)) or 1.0
    return [number / length for number in total]


def embeddings_body(
    vectors: Sequence[Sequence[float]], *, model: str, base64_wanted: bool, tokens: int
) -> dict[str, Any]:
    """The body of an embeddings reply."""
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": _packed(vector) if base64_wanted else list(vector)}
            for index, vector in enumerate(vectors)
        ],
        "model": model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _packed(vector: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
