"""The commands: chat, embed, models, serve; batch and probe join them. Beside click, all is imported as they run."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from .. import __version__
from ..errors import APIError, ConfigurationError, LocalServerError, OpenAICompatError
from .batch import batch
from .connect import Given, connected, ensure_installed
from .options import as_json, server, unattended
from .probe import probe
from .screen import PROG, Screen, print_json, say_error

if TYPE_CHECKING:
    from ..client import Client
    from ..wire.request import ChatRequest
    from ..wire.response import ChatResponse, StreamEvent

TERMINATED = 143


def _show_version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        print(f"{PROG} {__version__}")
        context.exit()


@click.group(PROG, no_args_is_help=False, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show the version."
)
def program() -> None:
    """Chat with any server that speaks the OpenAI format, or with a small model on this machine."""


program.add_command(batch)
program.add_command(click.command()(server(probe)))

# chat


@program.command()
@click.argument("prompt", required=False)
@click.option("-s", "--system", metavar="TEXT", help="Instructions for the model: the system message.")
@click.option("-i", "--image", "images", multiple=True, metavar="PATH|URL", help="An image to ask about. Repeatable.")
@click.option("--schema", metavar="PATH|JSON", help="A JSON Schema for the answer to follow: a file, or the JSON.")
@click.option("-t", "--temperature", type=float, help="0 nearly always gets the same answer; higher varies more.")
@click.option("--max-tokens", type=int, help="Limit of the answer's tokens, reasoning included.")
@click.option("--top-p", type=float, help="Sample from the likeliest tokens that together have this probability.")
@click.option("--top-k", type=int, help="Sample from this many of the likeliest tokens.")
@click.option("--seed", type=int, help="The same seed returns the same answer, if the server supports it.")
@click.option("--stop", multiple=True, metavar="TEXT", help="End the answer before this text. Repeatable.")
@click.option("--reasoning/--no-reasoning", default=None, help="Turn the model's reasoning on or off, if it can be.")
@click.option("--reasoning-effort", metavar="LEVEL", help="How much to think: low, medium, high, ...")
@click.option("--think-opened", is_flag=True, help="The model's template opens <think>: the answer begins inside it.")
@click.option("--extra", metavar="PATH|JSON", help="A JSON object, or a file of one, merged into the request's body.")
@click.option("--stream/--no-stream", default=True, help="Print the answer as it comes (the default), or in one piece.")
@as_json
@server
def chat(prompt: str | None, **given: Any) -> None:
    """Ask a model, and print its answer as it arrives.

    PROMPT may also be piped in; with both, the piped text follows. On a terminal without a prompt, it is a
    conversation.
    """
    from ..wire.request import ChatRequest

    screen = Screen(quiet=given["quiet"])
    piped = _piped_text(screen)
    request = ChatRequest(
        "\n\n".join(part for part in (prompt, piped) if part),
        system=given["system"],
        images=[_image(image) for image in given["images"]],
        response_schema=_json_object("--schema", given["schema"]),
        extra_body=_json_object("--extra", given["extra"]) or {},
        **{name: given[name] for name in _SAMPLING},
    )
    talking = prompt is None and piped is None and sys.stdin is not None
    if not request.prompt and not talking:
        raise ConfigurationError("nothing to ask: give a prompt, or pipe one in")
    if talking and given["as_json"]:
        raise ConfigurationError("--json needs a prompt")
    with connected(given, screen, purpose="chat") as client:
        if talking:
            _talk(client, request, screen, given)
        elif given["as_json"]:
            _answer_as_json(client, request, given)
        else:
            _show_answer(client, request, screen, given)


_SAMPLING = ("temperature", "max_tokens", "top_p", "top_k", "seed", "stop", "reasoning", "reasoning_effort")
"""The options that go into the request as they are."""


def _show_answer(
    client: Client, request: ChatRequest, screen: Screen, given: Given, said: list[str] | None = None
) -> ChatResponse:
    """Show the answer as it comes; however this ends, what has come is on the screen and in ``said``."""
    said = [] if said is None else said
    try:
        with _events(client, request, given) as events:
            for event in events:
                said.append(event.delta)
                screen.show(event)
                answer = event.response
    finally:
        screen.finish()
    assert answer is not None  # A stream without an answer raises.
    screen.summarize(answer)
    _check_refusal(answer)
    return answer


def _check_refusal(answer: ChatResponse) -> None:
    if answer.refusal and not answer.text:
        raise APIError(f"the model refuses: {answer.refusal}")


@contextlib.contextmanager
def _events(client: Client, request: ChatRequest, given: Given) -> Iterator[Iterator[StreamEvent]]:
    """The events of the answer; with ``--no-stream`` its reasoning and its text are one event each."""
    if given["stream"]:
        with client.stream(request, think_opened=given["think_opened"]) as stream:
            yield stream
    else:
        yield _whole(client, request, given)


def _whole(client: Client, request: ChatRequest, given: Given) -> Iterator[StreamEvent]:
    from ..wire.response import StreamEvent

    try:
        answer = client.chat(request, think_opened=given["think_opened"])
    except APIError as error:
        if error.partial is not None:
            yield StreamEvent("reasoning", error.partial.reasoning)
            yield StreamEvent("text", error.partial.text)
        raise
    yield StreamEvent("reasoning", answer.reasoning)
    yield StreamEvent("text", answer.text)
    for call in answer.tool_calls:
        yield StreamEvent("tool_call_done", call)
    yield StreamEvent("done", answer)


def _answer_as_json(client: Client, request: ChatRequest, given: Given) -> None:
    """Print one object; if the call failed halfway, with what had come and ``error``."""
    try:
        with _events(client, request, given) as events:
            for event in events:
                answer = event.response
    except APIError as error:
        if error.partial is not None:
            failure = {"type": type(error).__name__, "message": str(error)}
            print_json({**_answer_fields(error.partial), "error": failure})
        raise
    assert answer is not None  # A stream without an answer raises.
    print_json(_answer_fields(answer))
    _check_refusal(answer)


def _answer_fields(answer: ChatResponse) -> dict[str, Any]:
    return {
        "text": answer.text,
        "reasoning": answer.reasoning,
        "refusal": answer.refusal,
        "tool_calls": [
            {"id": call.id, "name": call.name, "arguments": call.arguments, "arguments_json": call.arguments_json}
            for call in answer.tool_calls
        ],
        "finish_reason": answer.finish_reason,
        "truncated": answer.truncated,
        "model": answer.model,
        "provider": answer.provider,
        "usage": _usage_fields(answer.usage),
        "latency_ms": round(answer.latency_ms, 1),
        "first_token_ms": answer.first_token_ms and round(answer.first_token_ms, 1),
        "tokens_per_second": answer.tokens_per_second and round(answer.tokens_per_second, 1),
        "request_id": answer.request_id,
    }


def _usage_fields(usage: Any) -> dict[str, int | None] | None:
    names = ("input_tokens", "output_tokens", "total_tokens", "cached_tokens", "reasoning_tokens")
    return None if usage is None else {name: getattr(usage, name) for name in names}


def _image(given: str) -> Any:
    """A URL, or else a path: it was typed by the person whose files these are."""
    is_url = given.partition(":")[0].lower() in ("http", "https", "data")
    return given if is_url else Path(given)


def _json_object(option: str, given: str | None) -> dict[str, Any] | None:
    """The JSON object that is given, or that is in the file whose path is given."""
    import json

    if given is None:
        return None
    try:
        text = given.lstrip("\ufeff \t\r\n")
        value = json.loads(text if text.startswith("{") else Path(given).read_bytes())
    except OSError as error:
        raise ConfigurationError(f"{option}: cannot read {given!r}: {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigurationError(f"{option}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ConfigurationError(f"{option}: must be a JSON object, not {type(value).__name__}")
    return value


def _piped_text(screen: Screen) -> str | None:
    """What is piped in, without line breaks at its end; None where stdin is a terminal."""
    if sys.stdin is None or sys.stdin.isatty():
        return None
    _say_if_waiting(screen)
    return _read_text(sys.stdin).rstrip("\r\n")


def _read_text(stream: TextIO) -> str:
    """All that a text stream holds, in the encoding that its first bytes name, if they name one."""
    import codecs

    if (binary := getattr(stream, "buffer", None)) is None:
        return stream.read().removeprefix("\ufeff")
    data = binary.read()
    encoding = stream.encoding
    if data.startswith(codecs.BOM_UTF8):
        encoding = "utf-8-sig"
    elif data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    return str(data.decode(encoding, "replace")).replace("\r\n", "\n").replace("\r", "\n")


def _say_if_waiting(screen: Screen) -> None:
    """Say so if nothing comes for a second: somebody may have inherited a pipe that nobody closes."""
    import io
    import select

    with contextlib.suppress(OSError, io.UnsupportedOperation, ValueError):
        if not select.select([sys.stdin.fileno()], [], [], 1.0)[0]:
            screen.note("reading standard input; if there is none to read, add: < /dev/null")


# The conversation.

_HELP = "/clear starts a new conversation, /exit or Ctrl-D ends; Ctrl-C stops an answer"


def _talk(client: Client, options: ChatRequest, screen: Screen, given: Given) -> None:
    """Question and answer until the person leaves; each question goes with all that was said before."""
    with contextlib.suppress(ImportError):
        import readline  # gives input() a line to edit, and its history

        # Otherwise each of several lines that are pasted would be a question. Python turns it off.
        readline.parse_and_bind("set enable-bracketed-paste on")
    screen.note(f"chat with {client.model}; {_HELP}")
    history: list[Any] = []
    images = options.images
    while (line := _typed_line()) is not None:
        word = line.strip()
        if word == "/exit":
            return
        if word == "/clear":
            history, images = [], options.images
            screen.note("new conversation")
        elif word == "/help":
            screen.note(_HELP)
        elif word.startswith("/") and word[1:].isalpha():
            screen.note(f"unknown command {word}; {_HELP}")
        elif word:
            turn = _turn(client, options, history, line, images, screen, given)
            history += turn
            images = () if turn else images


def _typed_line() -> str | None:
    """The next line; empty after Ctrl-C, None at the end of input."""
    prompt = "> "
    if not sys.stdout.isatty():
        # The prompt is not part of the answer that stdout is to receive.
        print(prompt, end="", file=sys.stderr, flush=True)
        prompt = ""
    try:
        return input(prompt)
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return ""
    except EOFError:
        print(file=sys.stderr)
        return None


def _turn(
    client: Client, options: ChatRequest, history: list[Any], line: str, images: Any, screen: Screen, given: Given
) -> list[Any]:
    """Ask one question, and return the messages that it adds to the history: none if nothing was answered."""
    import attrs

    from ..wire.request import ChatRequest, build_messages

    said: list[str] = []
    request = attrs.evolve(options, prompt=line, images=images, messages=history)
    question = build_messages(ChatRequest(line, images=images))
    try:
        answer = _show_answer(client, request, screen, given, said)
        return [*question, answer.to_message()]
    except KeyboardInterrupt:
        screen.note("stopped")
    except OpenAICompatError as error:
        say_error(str(error) or type(error).__name__)
    partial = "".join(said)
    return [*question, {"role": "assistant", "content": partial}] if partial else []


# embed, models, serve


@program.command()
@click.argument("texts", nargs=-1, metavar="[TEXT]...")
@click.option("--dimensions", type=int, help="Numbers in a vector, where the model can shorten them.")
@click.option(
    "--encoding-format",
    type=click.Choice(["base64", "float"]),
    default="base64",
    show_default=True,
    help="How the server sends them.",
)
@click.option("--normalize", is_flag=True, help="Scale every vector to length 1.")
@click.option("--batch-size", type=int, help="Most texts in one request.")
@as_json
@server
def embed(texts: tuple[str, ...], **given: Any) -> None:
    """Turn texts into vectors, one JSON list a line.

    The texts are the arguments, or without any the lines of a pipe.
    """
    screen = Screen(quiet=given["quiet"])
    inputs = list(texts)
    if not inputs:
        inputs = [line for line in (_piped_text(screen) or "").split("\n") if line.strip()]
    if not inputs:
        raise ConfigurationError("nothing to embed: give texts, or pipe lines in")
    with connected(given, screen, purpose="embed") as client:
        names = ("dimensions", "encoding_format", "normalize", "batch_size")
        answer = client.embed(inputs, **{name: given[name] for name in names})
    # Nine digits are all that a float32 has.
    vectors = ([float(f"{number:.9g}") for number in vector] for vector in answer)
    if not given["as_json"]:
        for vector in vectors:
            print_json(vector)
        return
    print_json({
        "model": answer.model,
        "provider": answer.provider,
        "dims": answer.dims,
        "usage": _usage_fields(answer.usage),
        "latency_ms": round(answer.latency_ms, 1),
        "request_id": answer.request_id,
        "vectors": list(vectors),
    })  # fmt: skip


@program.command()
@as_json
@server
def models(**given: Any) -> None:
    """List a server's models, one name a line."""
    screen = Screen(quiet=given["quiet"])
    with connected(given, screen, purpose=None) as client:
        listed = client.models()
        if given["as_json"]:
            fields = [{"id": model.id, "created": model.created, "owned_by": model.owned_by} for model in listed]
            print_json({"provider": client.provider, "base_url": client.base_url, "models": fields})
            return
    for model in listed:
        screen.answer(f"{model.id}\n")


@program.command()
@click.option(
    "-m",
    "--model",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="PATH",
    help="A GGUF file; by default the small model SmolLM2.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 picks a free one.")
@click.option(
    "--api-key",
    metavar="KEY",
    envvar="LLAMA_API_KEY",
    show_envvar=True,
    help="The key that clients have to send; by default a random one, with '' none. Safer in the environment.",
)
@click.option(
    "--context", type=click.IntRange(min=1), default=4096, show_default=True, help="Tokens in one conversation."
)
@unattended
def serve(**given: Any) -> None:
    """Run the embedded server in the foreground.

    Once it is ready, it prints what other programs need as lines for their shell: its address, its random key and its
    model. Ctrl-C stops it.
    """
    import shlex
    import signal

    from click.exceptions import Exit

    from ..local.server import LocalServer

    def terminated(*_: object) -> None:
        raise Exit(TERMINATED)

    screen = Screen(quiet=given["quiet"])
    if given["host"] not in ("127.0.0.1", "localhost", "::1") and given["api_key"] == "":
        screen.note(f"anyone who reaches {given['host']} can use this server: it asks for no key")
    ensure_installed(given["model"], screen, given)
    settings = {name: given[name] for name in ("host", "port", "api_key", "context")}
    before = signal.signal(signal.SIGTERM, terminated)
    try:
        with screen.waiting("starting the server"):
            server = LocalServer(given["model"], **settings).start()
        with server:
            needed = {"OPENAI_BASE_URL": server.base_url, "OPENAI_MODEL": server.model}
            if given["api_key"] is None:  # One of the person's own is known to them, and is not shown.
                needed["OPENAI_API_KEY"] = server.api_key or ""
            print("\n".join(f"export {name}={shlex.quote(value)}" for name, value in needed.items()), flush=True)
            screen.note(f"serving {server.model}; Ctrl-C stops it")
            status = server.wait()
    except KeyboardInterrupt:
        screen.note("stopped")
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
    raise LocalServerError(f"the server ended by itself, with status {status}")
