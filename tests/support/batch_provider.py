"""A provider's Batch API as the replies of a ``ReplayServer``: files and batches are in its hands."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from email.parser import BytesParser
from typing import Any

from support.replay import JSON, Reply, Request
from support.wire_bodies import chat_body, error_reply

Answer = Callable[[dict[str, Any]], dict[str, Any]]


def answered(line: dict[str, Any]) -> dict[str, Any]:
    """The line of an answer: the prompt, said again."""
    body = line["body"]
    if line["url"] == "/v1/embeddings":
        texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
        data = [{"index": index, "embedding": [1.0, float(len(text))]} for index, text in enumerate(texts)]
        said: Any = {"data": data, "model": body["model"], "usage": {"prompt_tokens": 2}}
    else:
        said = json.loads(chat_body(f"re: {body['messages'][-1]['content']}"))
    response = {"status_code": 200, "request_id": "req_1", "body": said}
    return {"id": "batch_req_1", "custom_id": line["custom_id"], "response": response, "error": None}


class Provider:
    """Answers each batch at its ``polls``-th look with ``status``.

    ``answer`` makes a line of the output file, or of the error file where it has an error or another HTTP status;
    a line for which it gives None is in neither.
    """

    def __init__(
        self, *, status: str = "completed", polls: int = 2, answer: Callable[[dict[str, Any]], Any] = answered
    ) -> None:
        self.status, self.polls, self.answer = status, polls, answer
        self.errors: list[dict[str, Any]] = []
        self.uploads: list[list[dict[str, Any]]] = []
        self.created: list[dict[str, Any]] = []
        self.cancelled: list[str] = []
        self.before: Callable[[Request], Reply | None] = lambda request: None
        self.after: Callable[[Request, Reply], Reply] = lambda request, reply: reply
        self.looked = threading.Event()
        self._files: dict[str, bytes] = {}
        self._batches: dict[str, dict[str, Any]] = {}
        self._looks: dict[str, int] = {}
        self._lock = threading.Lock()

    def __call__(self, request: Request) -> Reply:
        with self._lock:
            reply = self.before(request)
            return reply or self.after(request, self._reply(request))

    def _reply(self, request: Request) -> Reply:
        path = request.path.partition("?")[0].removeprefix("/v1")
        match request.method, path.strip("/").split("/"):
            case "POST", ["files"]:
                return self._upload(request)
            case "GET", ["files", name, "content"] if name in self._files:
                return Reply(headers={"Content-Type": "application/jsonl"}, body=self._files[name])
            case "POST", ["batches"]:
                return self._create(request.json())
            case "GET", ["batches"]:
                return json_reply({"object": "list", "data": list(reversed(self._batches.values()))})
            case "GET", ["batches", name] if name in self._batches:
                return self._look(name)
            case "POST", ["batches", name, "cancel"] if name in self._batches:
                self.cancelled.append(name)
                self._batches[name]["status"] = "cancelling"
                self.status = "cancelled"
                return json_reply(self._batches[name])
        return error_reply(404, "no such route")

    def _upload(self, request: Request) -> Reply:
        head = f"Content-Type: {request.headers['Content-Type']}\r\n\r\n".encode()
        form = BytesParser().parsebytes(head + request.body)
        purpose, file = form.get_payload()  # type: ignore[misc]
        assert purpose.get_param("name", header="Content-Disposition") == "purpose"  # type: ignore[union-attr]
        assert purpose.get_payload() == "batch"  # type: ignore[union-attr]
        assert file.get_filename()  # type: ignore[union-attr]
        content = file.get_payload(decode=True)  # type: ignore[union-attr]
        assert isinstance(content, bytes)
        self.uploads.append([json.loads(line) for line in content.splitlines()])
        name = f"file-{len(self.uploads)}"
        self._files[name] = content
        return json_reply({"id": name, "object": "file", "purpose": "batch", "bytes": len(content)})

    def _create(self, body: dict[str, Any]) -> Reply:
        self.created.append(body)
        name = f"batch_{len(self.created)}"
        self._batches[name] = {
            "id": name,
            "object": "batch",
            "status": "validating",
            "created_at": 1_800_000_000,
            **body,
        }
        return json_reply(self._batches[name])

    def _look(self, name: str) -> Reply:
        batch = self._batches[name]
        self._looks[name] = self._looks.get(name, 0) + 1
        self.looked.set()
        if self._looks[name] < self.polls:
            batch["status"] = "in_progress"
        elif batch["status"] != self.status:
            batch["status"] = self.status
            lines = [self.answer(json.loads(line)) for line in self._files[batch["input_file_id"]].splitlines()]
            good, bad = [], []
            for line in filter(None, lines):
                failed = line["error"] or line["response"]["status_code"] >= 300
                (bad if failed else good).append(json.dumps(line))
            for kind, written in (("output", good), ("error", bad)):
                if written:
                    batch[f"{kind}_file_id"] = f"{kind}-{name}"
                    self._files[f"{kind}-{name}"] = ("\n".join(written) + "\n").encode()
            if self.errors:
                batch["errors"] = {"object": "list", "data": self.errors}
        return json_reply(batch)

    def lose(self, name: str) -> None:
        """Forget a batch or a file."""
        self._batches.pop(name, None)
        self._files.pop(name, None)


def json_reply(value: Any, **headers: str) -> Reply:
    return Reply(headers={**JSON, **headers}, body=json.dumps(value).encode())
