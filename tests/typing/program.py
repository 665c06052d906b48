# pyright: strict
# ruff: noqa: T201
"""Read by the type checkers alone: what a user writes. pyright's strict mode allows nothing of unknown type."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, as_completed
from functools import partial
from pathlib import Path
from typing import Any, Literal

import attrs
import django.http
import flask
from django.urls import URLPattern

from openai_compat import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    BudgetExceededError,
    CallFuture,
    CancelToken,
    ChatRequest,
    ChatResponse,
    Client,
    CollectSink,
    Conversation,
    Image,
    Message,
    OpenAICompatError,
    ParsedResponse,
    Price,
    PrintSink,
    QueueSink,
    RateLimitError,
    ResponseTypeError,
    RetryPolicy,
    StreamError,
    StreamEvent,
    TeeSink,
    Timeout,
    ToolRound,
    budget,
    mcp_tools,
    tool,
    tool_rounds,
)
from openai_compat.integrations import django as on_django
from openai_compat.integrations import flask as on_flask
from openai_compat.web import EventStream, is_reconnect, public_error, wsgi_response


@attrs.frozen
class City:
    """A city, as the model is to name it."""

    name: str
    inhabitants: int | None = None
    size: Literal["small", "large"] = "small"


@tool
def weather(city: str, days: int = 1) -> str:
    """Weather of the next days."""
    return f"{city}: sun for {days} days"


@tool(timeout=5, parallel=False)
def look_up(name: str, cancel: CancelToken) -> dict[str, int]:
    """Look a name up."""
    return {name: int(cancel.cancelled)}


def picture(path: str) -> list[str | Image]:
    """A picture."""
    return ["here it is", Image.from_path(path)]


client = Client(
    "http://localhost:8080/v1",
    lambda: "key",
    model="m",
    timeout=Timeout(connect=5, first_token=60, total=300),
    retry=RetryPolicy(max_retries=2, first_wait=1),
    headers={"X-Team": "search"},
)


def ask() -> str:
    answer = client.chat("Why is the sky blue?", temperature=0.2, max_tokens=100, stop=["\n"])
    if answer.truncated or answer.finish_reason == "length":
        return answer.text + "…"
    for choice in answer.choices:
        print(choice.index, choice.text, choice.finish_reason)
    if answer.usage is not None:
        print(answer.usage.cached_tokens, answer.input_tokens + answer.output_tokens, answer.latency_ms)
    messages: list[Message | dict[str, Any]] = [{"role": "user", "content": "hi"}, answer.to_message()]
    return client.chat(messages).text


def ask_with_sinks() -> ChatResponse:
    def show(event: StreamEvent) -> None:
        print(event.delta, event.reasoning, end="")

    collected, events = CollectSink(), QueueSink(queue.Queue[StreamEvent]())
    client.chat("hi", sink=lambda event: print(event.delta, end=""))
    answer = client.chat(
        ChatRequest("hi", seed=1), sink=TeeSink(show, collected, PrintSink(), events, lambda event: print(event.model))
    )
    return answer if answer.text == "".join(event.delta for event in collected.events) else client.chat("hi")


def read_a_stream(cancel: CancelToken) -> list[str]:
    pieces: list[str] = []
    with client.stream("hi", cancel=cancel, max_tokens=50) as stream:
        for event in stream:
            pieces.append(event.delta)
            for call in (event.tool_call,) if event.tool_call else ():
                print(call.name, (call.arguments or {}).get("city"))
        print(stream.response.finish_reason)
    with client.stream("hi") as stream:
        pieces.extend(stream.text_stream)
    return pieces


def typed() -> list[City]:
    answer = client.chat("Name a city.", response_type=City, repair=1)
    largest = max(client.chat("Name some.", response_type=list[City]).parsed, key=lambda city: city.inhabitants or 0)
    with client.stream("Name a city.", response_type=City) as stream:
        stream.until_done()
        streamed = stream.response.parsed
    return [answer.parsed, largest, streamed]


class Dispatcher:
    def call(self, name: str, arguments: Mapping[str, Any]) -> str:
        return weather.run(arguments)


def tools() -> str:
    client.chat("Weather?", tools=[weather.spec, look_up.spec], tool_choice="auto")

    def report(a_round: ToolRound) -> None:
        for call in a_round.calls:
            print(call.name, call.arguments_json)

    answer = client.run_tools("Weather?", tools=[weather, look_up, picture], max_iterations=3, on_round=report)
    with mcp_tools(url="https://localhost/mcp") as found:
        answer = client.run_tools("Weather?", tools=[*found, weather], sink=PrintSink())
    for a_round in tool_rounds(client.chat, ChatRequest("Weather?", tools=[weather.spec]), Dispatcher()):
        print([result.content for result in a_round.run()])
    return weather("Paris", days=2) + answer.text + str(look_up.run({"name": "x"}))


def talk(path: Path) -> Conversation:
    conversation = client.conversation(system="Be brief.", tools=[weather], max_iterations=3)
    conversation.say("hi", sink=PrintSink(), on_round=print)
    city = conversation.say("A city?", response_type=City).parsed
    print(city.name, [message.role for message in conversation.messages])
    conversation.trim(max_tokens=1000)
    conversation.save(path)
    return Conversation.load(path, client)


def embed(texts: Iterable[str]) -> list[list[float]]:
    answer = client.embed(list(texts), model="e", dimensions=64)
    print(answer.dims, answer.embedding[0], answer.input_tokens)
    return [list(vector) for vector in answer.vectors]


def in_the_background(questions: list[str]) -> dict[str, str]:
    futures: dict[Future[ChatResponse], str] = {client.submit(question): question for question in questions}
    answers = {futures[future]: future.result().text for future in as_completed(futures)}
    city: CallFuture[ParsedResponse[City]] = client.submit("A city?", response_type=City)
    city.add_done_callback(lambda future: print(future.result().parsed.name))
    return {} if city.cancel() else answers


def spending() -> float:
    client = Client("https://api.openai.com/v1", prices={"m": Price(input=1, output=2.5)})
    try:
        with budget(usd=1, tokens=1e6) as spent:
            print(client.chat("hi").cost, spent)
    except BudgetExceededError as error:
        return error.limit
    return spent.usd


def carefully() -> str:
    try:
        return client.chat("hi").text
    except RateLimitError as error:
        return f"again in {error.retry_after or 1.0:.1f} s"
    except APIStatusError as error:
        return f"{error.status_code} {error.code} {error.headers.get('x-request-id')} {error.body}"
    except APITimeoutError as error:
        return error.phase
    except (APIConnectionError, StreamError) as error:
        return error.partial.text if error.partial else str(error.retryable)
    except ResponseTypeError as error:
        return error.path
    except OpenAICompatError as error:
        return public_error(error).message


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    if is_reconnect(environ):
        return EventStream(client.stream("hi"), environ=environ, on_done=lambda answer: print(answer.text))
    return wsgi_response(partial(client.run_tools, "hi", tools=[weather]), environ, start_response, format="openai")


app = flask.Flask(__name__)
llm = on_flask.OpenAICompat(app)
app.register_blueprint(
    on_flask.chat_blueprint(system="Be brief.", tools=[weather], history=on_flask.SQLiteHistory("history.sqlite3")),
    url_prefix="/chat",
)


@app.post("/ask")
def flask_view() -> flask.Response:
    return on_flask.stream_response(llm.client.stream(flask.request.form["question"]), on_done=keep)


def keep(answer: ChatResponse) -> None:
    print(answer.text)


def django_view(request: django.http.HttpRequest) -> django.http.response.HttpResponseBase:
    stream = on_django.get_client("default").stream(str(request.POST["question"]))
    return on_django.stream_response(request, stream, heartbeat=5, on_disconnect=keep)


urls: list[URLPattern]
urls, app_name = on_django.chat_urls(system="Be brief.", tools=[weather])
