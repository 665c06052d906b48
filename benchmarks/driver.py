"""The processes: the server, one worker a contestant, and the rounds in which the contestants take turns."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.contestants import ENTRIES, ROOT, Entry
from benchmarks.environments import ENVS, prepare
from benchmarks.scenarios import scenario as prepared

# Nothing of the user's shell reaches a contestant: no proxies, no keys, no .netrc.
ENVIRONMENT = {"PATH": os.defpath, "LANG": "C.UTF-8", "HOME": str(ENVS)}
WORKER = "import sys; sys.path.append(sys.argv[1]); from benchmarks.worker import main; main()"

Result = dict[str, Any]


class Lines:
    """A process that answers each line with a line."""

    def __init__(self, *command: str | Path, **options: Any) -> None:
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, bufsize=1, **options)
        assert self.process.stdin
        assert self.process.stdout
        self.input, self.output = self.process.stdin, self.process.stdout

    def ask(self, line: str) -> str:
        self.input.write(line + "\n")
        return self.answer()

    def answer(self) -> str:
        if line := self.output.readline():
            return str(line)
        raise SystemExit(f"{self.process.args!r} ended with exit code {self.process.wait()}")

    def close(self) -> None:
        self.input.close()
        self.process.wait()


class Bench:
    """Everything that a measurement needs: the contestants' interpreters and workers, the server, what went wrong."""

    def __init__(self, rounds: int, fresh: bool) -> None:
        self.rounds = rounds
        self.failures: dict[str, str] = {}
        self.pythons = {entry.name: prepare(entry, fresh) for entry in ENTRIES}
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        if cores[1:]:  # the server on a core of its own; what is started later inherits the other ones
            os.sched_setaffinity(0, cores[:1])
        self.server = Lines(sys.executable, "-m", "benchmarks.replay", cwd=ROOT)
        if cores[1:]:
            os.sched_setaffinity(0, cores[1:])
        self.url = f"http://127.0.0.1:{int(self.server.answer())}"
        self.workers = {entry.name: self.worker(entry) for entry in ENTRIES}
        self.installed = {
            name: json.loads(worker.ask('{"measure": "installed"}'))["distributions"]
            for name, worker in self.workers.items()
        }

    def worker(self, entry: Entry) -> Lines:
        """Start a contestant's worker, with its imports and its first calls behind it."""
        arguments = ("-I", "-c", WORKER, ROOT, self.url, entry.name)
        worker = Lines(self.pythons[entry.name], *arguments, env=ENVIRONMENT, cwd=ENVS)
        self.ask(entry, worker, "timed", "chat", call="chat", times=20)
        if not entry.only_chat:
            self.ask(entry, worker, "timed", "stream-100", call="stream", times=3)
        return worker

    def ask(self, entry: Entry, worker: Lines, measure: str, scenario: str, **job: Any) -> Result | None:
        """Have one contestant do one thing; a wrong answer is remembered and measures nothing."""
        result: Result = json.loads(worker.ask(json.dumps({"measure": measure, "scenario": scenario, **job})))
        expected = json.loads(json.dumps(prepared(scenario).expected))
        wrong = [answer for answer in result.get("answers", ()) if answer != expected]
        if "error" in result or wrong:
            told = result.get("error") or f"expected {expected!r:.300}, got {wrong[0]!r:.300}"
            self.failures.setdefault(f"{entry.title}: {measure} {scenario}", told)
            return None
        return result

    def turns(self, measure: str, scenario: str, *, rounds: int | None = None, **job: Any) -> dict[str, list[Result]]:
        """Let every contestant that can do it do it, in turn, round after round, and return what each measured."""
        able = [entry for entry in ENTRIES if job.get("call") == "chat" or not entry.only_chat]
        results: dict[str, list[Result]] = {entry.name: [] for entry in able}
        self.connections(scenario)
        for number in range(rounds or self.rounds):
            for entry in able[number % len(able) :] + able[: number % len(able)]:
                if result := self.ask(entry, self.workers[entry.name], measure, scenario, **job):
                    results[entry.name].append(result)
        return results

    def connections(self, scenario: str = "") -> int:
        """Return how many connections the server has accepted so far; have it make a scenario ready."""
        return int(self.server.ask(scenario))

    def close(self) -> None:
        for process in (*self.workers.values(), self.server):
            process.close()
