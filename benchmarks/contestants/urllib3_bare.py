"""urllib3 without requests: what the pool itself costs. It only chats."""

import json

import urllib3

from benchmarks.contestants import Answer

HEADERS = {"Authorization": "Bearer k", "Content-Type": "application/json"}
QUESTION = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


class Contestant:
    def __init__(self, base_url: str) -> None:
        self.url = f"{base_url}/chat/completions"
        self.pool = urllib3.PoolManager()

    def chat(self) -> Answer:
        response = self.pool.request("POST", self.url, body=json.dumps(QUESTION), headers=HEADERS)
        answer = json.loads(response.data)
        choice, usage = answer["choices"][0], answer["usage"]
        text = choice["message"]["content"]
        return Answer(text, choice["finish_reason"], usage["prompt_tokens"], usage["completion_tokens"])
