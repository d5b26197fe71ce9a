"""Money and rates around the encoder: reserve, wait for leave, encode, settle.

All of it is decided in SQL (``45_budget.sql``, ``46_limits.sql``), where any number of workers
meet. No transaction is open while a worker waits or encodes.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg

from embver_pg.db import Row
from embver_pg.encoders import Encoder, Vectors
from embver_pg.encoders.gate import Bill, count_requests, gated
from embver_pg.encoders.tokens import token_bound, token_guess
from embver_pg.encoders.wrapped import Wrapped
from embver_pg.errors import BudgetExceeded, EmbverError
from embver_pg.worker.meter import Meter

log = logging.getLogger("embver_pg.worker")
_RESERVE = (
    "SELECT * FROM embver_internal.reserve_spend(%s, %s, %s, %s::bigint, %s::bigint,"
    " %s::bigint, %s)"
)
_ACQUIRE = (
    "SELECT * FROM embver_internal.acquire_encoder(%s, %s, %s::bigint, make_interval(secs => %s))"
)


def metered(meter: Meter, target: Row, encoder: Encoder) -> Encoder:
    """The encoder as it may be used for a version.

    Args:
        meter: The worker's.
        target: A row of ``embver_internal.worker_targets()``.
        encoder: The version's encoder.

    Returns:
        The encoder itself where there is no rollout to account to and no limit to keep.
    """
    if target["rollout_id"] is None and target["limit_id"] is None:
        return encoder
    return Metered(encoder, target, meter)


@dataclass(frozen=True)
class Metered(Wrapped):
    """An encoder whose documents are paid for by a rollout, or kept to the limits it shares."""

    target: Row
    meter: Meter

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        """The vectors of ``n`` queries; workers ask for none."""
        return self.inner.encode_queries(texts)

    def encode_documents(self, texts: Sequence[str]) -> Vectors:
        """The vectors of ``n`` documents, ``[n, d] float32``.

        Raises:
            BudgetExceeded: The rollout's budget does not allow it; the rollout is paused.
            AbandonedError: The worker was stopped while it waited.
        """
        call = _Call(self.meter, self.target, self.inner, texts)
        call.reserve()
        done = 0
        try:
            vectors = gated(self.inner, call).encode_documents(texts)
            done = len(texts)
        finally:
            call.settle(done)
        return vectors


@dataclass
class _Use:
    """Requests and tokens of one call: under way, or sent."""

    requests: int = 0
    tokens: int = 0


@dataclass
class _Call:
    """One call of an encoder, and the gate of its requests."""

    meter: Meter
    target: Row
    encoder: Encoder
    texts: Sequence[str]
    _reservations: list[int] = field(default_factory=list)
    _reserved: _Use = field(default_factory=_Use)
    _used: _Use = field(default_factory=_Use)
    _guessed: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        strict = self.target["is_metered"] or self.target["limit_id"] is not None
        # Counting may cost as much as encoding: where nothing depends on it, the bytes do.
        self._counter = token_bound(self.encoder) if strict else token_guess(self.encoder)
        self._total = int(self._counter.documents(self.texts).sum())

    def reserve(self) -> None:
        """Charge the call to the rollout before anything is sent."""
        if self.target["is_metered"]:
            requests = count_requests(self.encoder, self.texts)
            self._reserve(len(self.texts), self._total, requests, patient=True)

    @contextmanager
    def request(self, texts: Sequence[str] | None = None) -> Iterator[Bill]:
        """The gate: one request, or one more try of it."""
        tokens = self._total if texts is None else int(self._counter.count(texts).sum())
        self._cover(tokens)
        leave = self._admit(tokens)
        bill = Bill()
        used = tokens  # whether a request without an answer is billed, nobody knows
        try:
            yield bill
            used = tokens if bill.tokens is None else bill.tokens
        except EmbverError as error:
            if "status" in error.detail:
                used = 0  # refused, and not billed
            raise
        finally:
            with self._lock:
                self._used.tokens += used - tokens
                self._guessed |= used > 0 and bill.tokens is None and not self._counter.is_exact
            self._release(leave, 0 if bill.tokens is None else tokens - bill.tokens)

    def settle(self, documents: int) -> None:
        """Replace what was reserved by what was used."""
        use: tuple[int, int, int, bool] = (
            documents,
            self._used.tokens,
            self._used.requests,
            self._guessed,
        )
        if not self.target["is_metered"]:
            if self.target["rollout_id"] is not None:
                self.meter.record(self.target, *use)
            return
        for number in self._reservations:
            try:
                self.meter.call(
                    "SELECT embver_internal.settle_spend(%s, %s, %s, %s, %s)", (number, *use)
                )
            except psycopg.Error as error:
                # What was reserved stays spent: never too little.
                log.warning("reservation %s is not settled: %s", number, str(error).strip())
            use = (0, 0, 0, False)

    def _cover(self, tokens: int) -> None:
        """Enter a request; where it is one more than was reserved, reserve for it too."""
        with self._lock:
            self._used.tokens += tokens
            self._used.requests += 1
            lacking = _Use(
                max(0, self._used.requests - self._reserved.requests),
                max(0, self._used.tokens - self._reserved.tokens),
            )
            if self.target["is_metered"] and (lacking.requests or lacking.tokens):
                try:
                    self._reserve(0, lacking.tokens, lacking.requests, patient=False)
                except BaseException:
                    self._used.tokens -= tokens  # it is not sent
                    self._used.requests -= 1
                    raise

    def _reserve(self, documents: int, tokens: int, requests: int, *, patient: bool) -> None:
        meter, target = self.meter, self.target
        named = (target["collection"], target["version"], meter.worker_id)
        while True:
            row = meter.call(_RESERVE, (*named, documents, tokens, requests, patient))
            if row is None:  # the rollout has ended: nobody is charged
                break
            if row["refusal"] is not None:
                refusal = row["refusal"]
                log.warning("%s: %s; the rollout is paused", target["store"], refusal["message"])
                raise BudgetExceeded(
                    refusal["message"], detail=refusal["detail"], hint=refusal["hint"]
                )
            if row["reservation"] is not None:
                self._reservations.append(row["reservation"])
                break
            meter.pause(row["wait"])
        self._reserved.tokens += tokens
        self._reserved.requests += requests

    def _admit(self, tokens: int) -> Row | None:
        """Wait for leave by the limits of the encoder; what to give back."""
        limit = self.target["limit_id"]
        if limit is None:
            return None
        try:
            while True:
                asked = (limit, self.meter.worker_id, tokens, self.meter.lease)
                row = self.meter.call(_ACQUIRE, asked)
                assert row is not None
                if row["wait"] == 0:
                    return row
                self.meter.pause(row["wait"])
        except BaseException:
            with self._lock:
                self._used.tokens -= tokens  # it is not sent
                self._used.requests -= 1
            raise

    def _release(self, leave: Row | None, unused: int) -> None:
        if leave is None or not (leave["slot"] or (leave["counts_tokens"] and unused)):
            return
        try:
            self.meter.database.rows(
                "SELECT embver_internal.release_encoder(%s, %s, %s)",
                (self.target["limit_id"], leave["slot"], unused),
            )
        except (EmbverError, psycopg.Error) as error:
            log.info("a slot of the encoder is left to expire: %s", str(error).strip())
