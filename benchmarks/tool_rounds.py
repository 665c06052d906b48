"""A thousand tool rounds in one loop, beside the loop that people write: ``python -m benchmarks.tool_rounds``.

Both keep the whole conversation and write it out as JSON for every round, which is what grows. No sockets: what is
measured is the CPU of the loop and of the body.
"""

import itertools
import json
import statistics
import time
from collections.abc import Iterator

from openai_compat import ChatRequest, ChatResponse, Choice, ToolCall, build_body, run_tools_loop, tool
from openai_compat._json import encode_json
from openai_compat.tools.tool import Toolbox

ROUNDS = 1000
REPEATS = 5
ARGUMENTS = '{"city":"Oslo","days":3}'


@tool
def forecast(city: str, days: int) -> str:
    """The weather to come."""
    return f"{days} days of sun in {city}"


def ours() -> list[float]:
    """Seconds of CPU for each tenth of the rounds."""
    marks = [time.process_time()]
    asked = 0

    def ask(request: ChatRequest) -> ChatResponse:
        nonlocal asked
        encode_json(build_body(request))
        asked += 1
        if asked % (ROUNDS // 10) == 0:
            marks.append(time.process_time())
        if asked == ROUNDS:
            return ChatResponse(choices=(Choice(text="done"),))
        call = ToolCall(id=f"c{asked}", name="forecast", arguments=json.loads(ARGUMENTS), arguments_json=ARGUMENTS)
        return ChatResponse(choices=(Choice(tool_calls=(call,)),))

    box = Toolbox([forecast])
    run_tools_loop(ask, ChatRequest("go", model="m", tools=box.specs), box, max_iterations=ROUNDS)
    return differences(marks)


def plain() -> list[float]:
    """The same for a loop over dicts with the standard library's JSON."""
    marks = [time.process_time()]
    tools = [{"type": "function", "function": {"name": "forecast", "parameters": dict(forecast.spec.parameters)}}]
    messages: list[dict[str, object]] = [{"role": "user", "content": "go"}]
    for asked in range(1, ROUNDS + 1):
        json.dumps({"model": "m", "messages": messages, "tools": tools}).encode()
        function = {"name": "forecast", "arguments": ARGUMENTS}
        call = {"id": f"c{asked}", "type": "function", "function": function}
        messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
        result = forecast.function(**json.loads(ARGUMENTS))
        messages.append({"role": "tool", "tool_call_id": f"c{asked}", "content": result})
        if asked % (ROUNDS // 10) == 0:
            marks.append(time.process_time())
    return differences(marks)


def differences(marks: list[float]) -> list[float]:
    return [after - before for before, after in itertools.pairwise(marks)]


def main() -> None:
    tenths: dict[str, list[list[float]]] = {"ours": [], "plain": []}
    for _ in range(REPEATS):
        tenths["ours"].append(ours())
        tenths["plain"].append(plain())

    def medians(name: str) -> Iterator[float]:
        return (statistics.median(tenth) for tenth in zip(*tenths[name], strict=True))

    print("| rounds | ours, µs a round | plain, µs a round | ratio |\n|---|---:|---:|---:|")
    for number, (mine, theirs) in enumerate(zip(medians("ours"), medians("plain"), strict=True)):
        each = ROUNDS // 10
        rounds = f"{number * each + 1}-{(number + 1) * each}"
        print(f"| {rounds} | {mine / each * 1e6:.0f} | {theirs / each * 1e6:.0f} | {mine / theirs:.2f} |")


if __name__ == "__main__":
    main()
