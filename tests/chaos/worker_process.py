"""A worker in a process of its own, to be stopped at a step of its protocol and killed there.

``python -m tests.chaos.worker_process '{"url": …}'`` prints a JSON line at each step; at a step
named in ``pause`` it waits for a line on its standard input. Texts that it encodes are counted in
the file ``log``, one JSON list a call, written before the call: what a provider would bill.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embver_pg.db import Database
from embver_pg.encoders import Encoder, EncoderSpec, Vectors, load
from embver_pg.encoders.gate import Gate, gated
from embver_pg.encoders.probes import PROBES
from embver_pg.worker import Worker, stop_on_signals
from tests.waiting import NEVER

_printing = threading.Lock()


@dataclass
class Counting:
    """An encoder that writes down what it is asked for, and may be slow."""

    inner: Encoder
    config: dict[str, Any]

    @property
    def spec(self) -> EncoderSpec:
        return self.inner.spec

    @property
    def dimensions(self) -> int:
        return self.inner.dimensions

    @property
    def fingerprint(self) -> str:
        return self.inner.fingerprint

    def gated(self, gate: Gate) -> Counting:
        return Counting(gated(self.inner, gate), self.config)

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        return self.inner.encode_queries(texts)

    def encode_documents(self, texts: Sequence[str]) -> Vectors:
        if set(texts) <= set(PROBES):  # of the canary: no documents
            return self.inner.encode_documents(texts)
        if self.config.get("log"):
            with Path(self.config["log"]).open("a") as log:
                log.write(json.dumps(list(texts)) + "\n")
        step("encoding", {"documents": len(texts)}, self.config)
        if any(self.config.get("deadly", "\0") in text for text in texts):
            os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does to who takes all memory
        time.sleep(self.config.get("slow", 0.0))
        return self.inner.encode_documents(texts)


def loaded(spec: EncoderSpec, config: dict[str, Any]) -> Encoder:
    """The encoder; with ``fatal_load`` there is no memory for it."""
    if config.get("fatal_load"):
        step("loading", {}, config)
        os.kill(os.getpid(), signal.SIGKILL)
    return Counting(load(spec), config)


def step(name: str, figures: dict[str, Any], config: dict[str, Any]) -> None:
    """Say where we are; wait there if asked to."""
    say({"step": name, **figures})
    if name in config.get("pause", ()):
        sys.stdin.readline()


def say(line: dict[str, Any]) -> None:
    with _printing:
        print(json.dumps(line, default=str), flush=True)


def main() -> None:
    config = json.loads(sys.argv[1])
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s %(message)s"
    )
    worker = Worker(
        Database(config["url"]),
        **{"poll": 0.05, "batch_seconds": NEVER, **config.get("options", {})},
        encoder_for=lambda spec: loaded(spec, config),
        on_step=lambda name, figures: step(name, figures, config),
    )
    try:
        with stop_on_signals(worker.stop):
            report = worker.run(drain=config.get("drain", False))
    except Exception as error:
        say({"step": "failed", "error": type(error).__name__, "message": str(error)})
        raise SystemExit(1) from None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB
    say({"step": "ended", "peak_kib": peak, **vars(report)})


if __name__ == "__main__":
    main()
