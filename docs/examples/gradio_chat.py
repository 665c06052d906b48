"""A chat with Gradio: word by word, with a stop button that frees the model.

    pip install openai-compat gradio
    python docs/examples/gradio_chat.py

The environment names the server (``OPENAI_BASE_URL``, ``OPENAI_API_KEY``, ``OPENAI_MODEL``); else one on this machine
answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from openai_compat import Client, OpenAICompatError

client = Client.from_env(local=True)


def answer(question: str, history: list[dict[str, Any]]) -> Iterator[str]:
    # Gradio's turns have fields of its own, which servers do not know.
    messages = [{"role": turn["role"], "content": turn["content"]} for turn in history]
    stream = client.stream([*messages, {"role": "user", "content": question}], max_tokens=1000)
    text = ""
    try:
        for piece in stream.text_stream:
            text += piece
            yield text
    except OpenAICompatError as error:
        raise gr.Error(str(error)) from error


demo = gr.ChatInterface(answer, title="Chat")

if __name__ == "__main__":
    demo.launch()
