"""A server that answers each question with "re: " and the question, and who asks it."""

from __future__ import annotations

from collections import Counter
from typing import Any

from openai_compat import Client
from support.replay import ReplayServer, Reply, Request
from support.wire_bodies import chat_reply


def question(request: Request) -> str:
    text: str = request.json()["messages"][-1]["content"]
    return text


def echo(request: Request) -> Reply:
    return chat_reply(f"re: {question(request)}")


def asked(server: ReplayServer) -> Counter[str]:
    """How often each question was asked."""
    return Counter(question(request) for request in server.requests)


def client(server: ReplayServer, **options: Any) -> Client:
    return Client(f"{server.url}/v1", model="m", **{"max_retries": 0, **options})
