"""Blocking Python for every server that speaks OpenAI's Chat Completions and Embeddings formats."""

__version__ = "0.1.0"
