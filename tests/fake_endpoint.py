"""An HTTP server on 127.0.0.1 that speaks the OpenAI embeddings API, with faults to switch on.

Vectors are those of ``hash:<dimensions>``, so a test can tell what each text must have got::

    with FakeEndpoint(dimensions=64) as endpoint:
        encoder = load("openai:fake", base_url=endpoint.base_url)
        endpoint.fail_next(429, times=2, retry_after=0.1)
        encoder.encode_documents(["a", "b"])
        assert (endpoint.calls, endpoint.texts) == (3, 2)
"""

from __future__ import annotations

import base64
import json
import random
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

import numpy as np

from embver_pg.encoders.base import EncoderSpec
from embver_pg.encoders.checks import unit_rows
from embver_pg.encoders.hashing import HashEncoder
from embver_pg.encoders.probes import PROBES


@dataclass(frozen=True)
class Reply:
    """A planned answer that is no embedding: a status, its headers and its body."""

    status: int
    retry_after: str | None = None
    message: str = "a planned fault"
    code: str | None = None
    param: str | None = None


@dataclass
class Faults:
    """What goes wrong, until it is switched off again."""

    status: int | None = None  # every request is answered with it
    retry_after: str | None = None  # … and with this header
    reject_containing: str | None = None  # a refusal of a request with such an input
    reject_status: int = 400  # … with this status
    nan_containing: str | None = None  # a NaN in the vector of such an input
    zero_containing: str | None = None  # a zero vector for such an input
    missing_vectors: int = 0  # so many fewer vectors than inputs (negative: more)
    dimensions: int | None = None  # vectors of this length whatever was asked for
    delay: float = 0.0  # seconds before each answer
    reverse: bool = False  # the vectors in reverse order, with their index
    not_json: bool = False  # 200 and a page of HTML
    hang_up: bool = False  # the connection is closed without an answer
    cut_answer: bool = False  # … in the middle of the answer
    held: threading.Event | None = None  # no answer before it is set
    latency: tuple[float, float] = (0.0, 0.0)  # seconds before each answer, evenly drawn
    max_inputs: int | None = None  # 413 for more inputs in a request
    next: deque[Reply] = field(default_factory=deque)  # one answer each, first of all


class FakeEndpoint:
    """The server; ``faults`` may be changed while it runs.

    Attributes:
        faults: What goes wrong.
        matryoshka: Fewer dimensions are the first ones of all, at unit length again.
        model: The model that answers, under whatever name it is asked for; another one makes
            another space.
        calls: Requests received, faulty ones included.
        texts: Inputs that were answered with a vector.
        requests: The body of every request.
        keys: The bearer token of every request.
        arrivals: When every request came, by the monotonic clock.
        tokens: Words of the inputs that were answered: what it would bill.
        reports_usage: Whether its answers say how many tokens were used.
        in_flight_max: The most requests that were open at once, from their arrival until just
            before the answer.
        spoiled: Requests that were not answered with good vectors for all their inputs.
    """

    def __init__(
        self, dimensions: int = 64, *, key: str | None = None, matryoshka: bool = False
    ) -> None:
        self.dimensions = dimensions
        self.matryoshka = matryoshka
        self.model = ""
        self.key = key
        self.faults = Faults()
        self.calls = self.texts = self.tokens = self.in_flight_max = self.spoiled = 0
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.arrivals: list[float] = []
        self.reports_usage = False
        self.counts_canaries = True
        self._in_flight = 0
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.endpoint = self
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )

    @property
    def base_url(self) -> str:
        """What to give as the option ``base_url``."""
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def fail_next(
        self,
        status: int,
        times: int = 1,
        *,
        retry_after: float | str | None = None,
        message: str = "a planned fault",
        code: str | None = None,
        param: str | None = None,
    ) -> None:
        """Answer the next requests with an error."""
        after = None if retry_after is None else str(retry_after)
        self.faults.next.extend([Reply(status, after, message, code, param)] * times)

    def heal(self) -> None:
        """Switch all faults off."""
        self.faults = Faults()

    def forget(self) -> None:
        """Set the counters to zero."""
        with self._lock:
            self.calls = self.texts = self.tokens = self.in_flight_max = self.spoiled = 0
            self.requests.clear()
            self.keys.clear()
            self.arrivals.clear()

    def start(self) -> FakeEndpoint:
        """Begin to answer."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Stop answering and free the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> FakeEndpoint:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def answer(self, body: dict[str, Any], key: str) -> tuple[Reply | None, list[dict[str, Any]]]:
        """The planned fault, or the data of the response."""
        inputs = body["input"] if isinstance(body["input"], list) else [body["input"]]
        faults = self.faults
        with self._lock:
            self.calls += 1
            self.requests.append(body)
            self.keys.append(key)
            self.arrivals.append(time.monotonic())
            planned = faults.next.popleft() if faults.next else None
        if planned is None:
            planned = self._refusal(inputs, key, faults)
        data = self._data(inputs, body, faults) if planned is None else []
        with self._lock:
            if planned is None:
                self.texts += len(inputs)
                self.tokens += tokens_of(inputs)
            self.spoiled += planned is not None or self._spoils(inputs, faults)
        return planned, data

    def _spoils(self, inputs: list[str], faults: Faults) -> bool:
        """Whether an answer with status 200 would not do."""
        return bool(
            faults.not_json
            or faults.hang_up
            or faults.cut_answer
            or faults.missing_vectors
            or faults.dimensions
            or any(
                _contains(text, faults.nan_containing) or _contains(text, faults.zero_containing)
                for text in inputs
            )
        )

    def aside(self, body: dict[str, Any]) -> list[dict[str, Any]] | None:
        """The answer to a canary where it is neither counted nor faulty."""
        if self.counts_canaries or body["input"] != list(PROBES):
            return None
        return self._data(list(PROBES), body, Faults())

    def _refusal(self, inputs: list[str], key: str, faults: Faults) -> Reply | None:
        if faults.status is not None:
            return Reply(faults.status, faults.retry_after)
        if self.key is not None and key != self.key:
            return Reply(401, message=f"Incorrect API key provided: {key}", code="invalid_api_key")
        if faults.max_inputs is not None and len(inputs) > faults.max_inputs:
            return Reply(413, message="too many inputs")
        if any(_contains(text, faults.reject_containing) for text in inputs):
            return Reply(faults.reject_status, message="the input is invalid", param="input")
        return None

    def _data(
        self, inputs: list[str], body: dict[str, Any], faults: Faults
    ) -> list[dict[str, Any]]:
        wanted = faults.dimensions or body.get("dimensions") or self.dimensions
        made = self.dimensions if self.matryoshka else wanted
        vectors = vectors_of(self.model, inputs, made)
        if made != wanted:
            vectors = unit_rows(vectors[:, :wanted])
        for row, text in zip(vectors, inputs, strict=True):
            if _contains(text, faults.nan_containing):
                row[0] = np.nan
            if _contains(text, faults.zero_containing):
                row[:] = 0
        data = [
            {"object": "embedding", "index": i, "embedding": _encoded(row, body)}
            for i, row in enumerate(vectors)
        ]
        if faults.missing_vectors > 0:
            data = data[: -faults.missing_vectors]
        for _ in range(-faults.missing_vectors):
            data.append({**data[-1], "index": len(data)})
        return data[::-1] if faults.reverse else data

    def entered(self, step: int) -> None:
        """Count the open requests."""
        with self._lock:
            self._in_flight += step
            self.in_flight_max = max(self.in_flight_max, self._in_flight)


def vectors_of(model: str, texts: list[str], dimensions: int) -> Any:
    """What a model says, ``[n, d] float32``: models differ by what they read before each word."""
    marked = [" ".join(f"{model}{word}" for word in text.split(" ")) for text in texts]
    return HashEncoder(EncoderSpec("hash", str(dimensions))).encode_documents(marked)


def tokens_of(inputs: list[str]) -> int:
    """What the endpoint takes for tokens."""
    return sum(len(text.split()) for text in inputs)


def _contains(text: str, part: str | None) -> bool:
    return part is not None and part in text


def _encoded(row: Any, body: dict[str, Any]) -> Any:
    if body.get("encoding_format") == "base64":
        return base64.b64encode(row.astype("<f4").tobytes()).decode()
    return [float(x) for x in row]


class _Server(ThreadingHTTPServer):
    endpoint: FakeEndpoint
    daemon_threads = True
    allow_reuse_port = True  # a test may keep the port for later
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a client may be killed
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:
        endpoint = self.server.endpoint
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if (data := endpoint.aside(body)) is not None:
            self._send(200, {"object": "list", "data": data, "model": body["model"]})
            return
        endpoint.entered(+1)
        try:
            self._respond(endpoint, body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the client did not wait
        finally:
            endpoint.entered(-1)

    def _respond(self, endpoint: FakeEndpoint, body: dict[str, Any]) -> None:
        key = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.path != "/v1/embeddings":
            self._send(404, {"error": {"message": f"no such path: {self.path}"}})
            return
        faults = endpoint.faults
        planned, data = endpoint.answer(body, key)
        pause = faults.delay + random.uniform(*faults.latency)
        if pause:
            time.sleep(pause)
        if faults.held is not None:
            faults.held.wait()
        if faults.hang_up:
            self.close_connection = True
        elif planned is not None:
            error = {"message": planned.message, "code": planned.code, "param": planned.param}
            self._send(planned.status, {"error": error}, planned.retry_after)
        elif faults.not_json:
            self._send(200, "<html>Welcome to the proxy</html>")
        else:
            used = tokens_of(body["input"]) if endpoint.reports_usage else 0
            usage = {"prompt_tokens": used, "total_tokens": used}
            answer = {"object": "list", "data": data, "model": body["model"], "usage": usage}
            self._send(200, answer, cut=faults.cut_answer)

    def _send(
        self, status: int, body: Any, retry_after: str | None = None, *, cut: bool = False
    ) -> None:
        content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        kind = "text/html" if isinstance(body, str) else "application/json"
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        if retry_after is not None:
            self.send_header("Retry-After", retry_after)
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if cut else content)
        if cut:
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the tests read the counters."""
