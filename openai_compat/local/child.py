"""What runs in the child process that a ``LocalServer`` starts: llama.cpp's server, until the parent has gone."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from typing import Any


def serve(config: dict[str, Any]) -> None:
    """Run the server that ``config`` describes, and end when the parent has gone."""
    parent = os.getppid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_at_eof, daemon=True).start()
    # While the model loads, no Python thread runs, so the kernel has to watch over the parent. Only for so long: it
    # watches the thread that started us, and that thread may end once start() has returned.
    _die_with_parent(signal.SIGKILL)
    try:
        server = _make_server(config)
    except BaseException as error:
        _announce(f"failed: {error}")
        sys.exit(1)
    _die_with_parent(0)
    _announce(f"port {server.listening_address.rpartition(':')[2]}")
    # The end of stdin tells at once that the parent has gone, unless a fork of the parent's still holds the pipe.
    while os.name != "posix" or os.getppid() == parent:
        time.sleep(0.5)
    os._exit(0)


def _make_server(config: dict[str, Any]) -> Any:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = config["model"]
    params.model_alias = {config["alias"]}
    params.hostnames = [config["host"]]
    params.port = config["port"]
    params.api_keys = [config["api_key"]] if config["api_key"] else []
    # One cache for all slots: with a cache for each, texts that are embedded together are cut where the shortest ends,
    # and the vector of a longer one is the mean of its end alone. The cap leaves every slot its share.
    params.kv_unified = True
    params.kv_unified_per_slot = config["context"]
    params.n_ctx = config["context"] * config["slots"]
    params.n_parallel = config["slots"]
    # llama.cpp aborts as it starts when the slots do not share its batch of 512 tokens evenly.
    params.n_ubatch = -(-512 // config["slots"]) * config["slots"]
    params.embedding = True
    params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    params.endpoint_slots = True
    params.endpoint_metrics = True
    params.ui = False
    params.cache_ram_mib = 0
    params.use_jinja = True
    # Otherwise any web page that is open in a browser on this machine may use the model.
    params.cors_origins = ""
    params.cors_credentials = False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = config["threads"]
    if config["chat_template"]:
        params.chat_template = config["chat_template"]
    return xllamacpp.Server(params)


def _announce(text: str) -> None:
    os.write(1, f"[openai_compat] {' '.join(text.split())[:400]}\n".encode())


def _exit_at_eof() -> None:
    while os.read(0, 1):
        pass
    os._exit(0)


def _die_with_parent(with_signal: int) -> None:
    if sys.platform == "linux":
        import ctypes

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, with_signal)
