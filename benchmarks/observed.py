"""What it costs to look on: hooks, the log and OpenTelemetry, off and on: ``python -m benchmarks.observed``.

CPU of the client's process, in turns, so that what else the machine does falls on all. Needs the extra ``otel`` and
``opentelemetry-sdk``; spans and metrics are made and thrown away.
"""

import logging
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

from openai_compat import Client
from openai_compat.integrations.otel import OpenTelemetry

ROUNDS = 15
CALLS = 200
STREAMS = 1


class Nowhere(SpanExporter):
    """Takes spans, and keeps none."""

    def export(self, spans: object) -> SpanExportResult:
        return SpanExportResult.SUCCESS


def ignore(event: object) -> None:
    """A hook that does nothing."""


def plain(client: Client) -> None:
    """Nobody looks on."""


def hooks(client: Client) -> None:
    client.hooks.add(on_request=ignore, on_response=ignore, on_retry=ignore, on_error=ignore)


def hooks_and_events(client: Client) -> None:
    hooks(client)
    client.hooks.add(on_event=ignore)


def telemetry(client: Client, *, chunk_times: bool = True) -> None:
    spans = TracerProvider()
    spans.add_span_processor(SimpleSpanProcessor(Nowhere()))
    meters = MeterProvider([InMemoryMetricReader()])
    OpenTelemetry(tracer_provider=spans, meter_provider=meters, chunk_times=chunk_times).attach(client)


def telemetry_without_chunks(client: Client) -> None:
    telemetry(client, chunk_times=False)


def log(client: Client) -> None:
    logging.getLogger("openai_compat").setLevel(logging.DEBUG)


WAYS: dict[str, Callable[[Client], None]] = {
    "nothing": plain,
    "nothing, once more": plain,
    "four hooks": hooks,
    "five, with `on_event`": hooks_and_events,
    "OpenTelemetry": telemetry,
    "OpenTelemetry, `chunk_times=False`": telemetry_without_chunks,
    "`OPENAI_COMPAT_LOG=debug`": log,
}


def chats(client: Client) -> float:
    """Microseconds of CPU for a small call."""
    before = time.process_time()
    for _ in range(CALLS):
        client.chat("hi")
    return (time.process_time() - before) / CALLS * 1e6


def chunks(client: Client) -> float:
    """Microseconds of CPU for an event of a stream."""
    count = 0
    before = time.process_time()
    for _ in range(STREAMS):
        for _ in client.stream("hi"):
            count += 1
    return (time.process_time() - before) / count * 1e6


def main() -> None:
    logging.getLogger("openai_compat").addHandler(logging.StreamHandler(open("/dev/null", "w")))  # noqa: SIM115
    server = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.replay"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert server.stdin is not None
    assert server.stdout is not None
    port = int(server.stdout.readline())
    found: dict[str, dict[str, list[float]]] = {name: {"chat": [], "chunk": []} for name in WAYS}
    try:
        for number in range(ROUNDS + 1):
            for name, way in WAYS.items():
                for kind, scenario, measure in (("chat", "chat", chats), ("chunk", "stream-5000", chunks)):
                    with Client(f"http://127.0.0.1:{port}/{scenario}/v1", "key", model="m") as client:
                        way(client)
                        client.chat("hi") if kind == "chat" else client.stream("hi").until_done()
                        took = measure(client)
                    logging.getLogger("openai_compat").setLevel(logging.WARNING)
                    if number:
                        found[name][kind].append(took)
    finally:
        server.stdin.close()
        server.wait(10)
    print("| | a small chat call, µs | ratio | an event of a stream, µs | ratio |\n|---|---:|---:|---:|---:|")
    base = found["nothing"]
    for name, kinds in found.items():
        cells = []
        for kind, took in kinds.items():
            ratios = [mine / other for mine, other in zip(took, base[kind], strict=True)]
            cells.append(f"{statistics.median(took):.1f} | {statistics.median(ratios):.2f}")
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
