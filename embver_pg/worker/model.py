"""The encoders of a worker: loaded once, and only if they are those that the versions name."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from embver_pg import canary, chunking
from embver_pg.db import Database, Row
from embver_pg.encoders import Encoder, EncoderSpec, checked
from embver_pg.errors import SpaceChanged

log = logging.getLogger("embver_pg.worker")
_now = time.monotonic


@dataclass(frozen=True)
class _Verified:
    """When an encoder was last found to be a version's: by our clock, and by the server's."""

    seconds: float
    at: datetime | None


class Encoders:
    """Loaded encoders, by what makes them differ; each version's canary is asked now and then."""

    def __init__(
        self,
        encoder_for: Callable[[EncoderSpec], Encoder],
        database: Database,
        interval: float,
    ) -> None:
        """Prepare; nothing is loaded yet.

        Args:
            encoder_for: Makes an encoder of a version's specification.
            database: Where the canaries are.
            interval: Seconds after which :meth:`verify` asks a canary again.
        """
        self._encoder_for = encoder_for
        self._database = database
        self._interval = interval
        self._loaded: dict[str, Encoder] = {}
        self._verified: dict[tuple[str, int, str], _Verified] = {}
        self._splitters: dict[tuple[str, int, str], chunking.Splitter] = {}
        self._rates: dict[tuple[str, int, str], float] = {}

    def is_ready(self, target: Row) -> bool:
        """Whether :meth:`of` has the encoder, and its canary was asked."""
        return _key(target) in self._verified

    def rate(self, target: Row) -> float | None:
        """Texts a second that the last look at the canary took; None where there was none."""
        return self._rates.get(_key(target))

    def of(self, target: Row) -> Encoder:
        """The encoder of a row of ``embver_internal.writable_versions()``.

        A worker that dies while a model is loaded should hold no lease: call this first without
        one where :meth:`is_ready` says no.

        Raises:
            SpaceChanged: The model behind the name is not the version's.
            EmbverError: The encoder cannot answer.
        """
        encoder = self._load(target)
        if not self.is_ready(target):
            self._ask(target, encoder)
        return encoder

    def splitter(self, target: Row) -> chunking.Splitter | None:
        """What cuts the documents of a version; None where they are encoded whole.

        Raises:
            InvalidArgument: A package is missing, or the encoder cannot count tokens.
        """
        if target["chunker"] is None:
            return None
        key = _key(target)
        if key not in self._splitters:
            self._splitters[key] = chunking.splitter(
                chunking.Chunker.from_json(target["chunker"]), self.of(target)
            )
        return self._splitters[key]

    def verify(self, target: Row) -> None:
        """Ask the canary again if its last answer is too old.

        Called between encoding and writing, so that what is written was made by a model that
        was the version's afterwards, too.

        Raises:
            SpaceChanged: The model has changed meanwhile.
            EmbverError: The encoder cannot answer.
        """
        last = self._verified.get(_key(target))
        if last is None or _now() - last.seconds >= self._interval:
            self._ask(target, self._load(target))

    def _load(self, target: Row) -> Encoder:
        key = f"{target['fingerprint']} {target['metric']} {target['encoder']}"
        if key not in self._loaded:
            encoder = self._encoder_for(EncoderSpec.from_json(target["encoder"]))
            if encoder.fingerprint != target["fingerprint"]:
                raise SpaceChanged(
                    f"The encoder of version {target['version']} of {target['collection']!r} is"
                    " not the one it was made with.",
                    detail={
                        "version": target["version"],
                        "expected": target["fingerprint"],
                        "found": encoder.fingerprint,
                        "encoder": target["encoder"],
                    },
                    hint="Give the workers the same model files, or add a version for the new"
                    f" model: embver version add {target['collection']} ENCODER",
                )
            self._loaded[key] = checked(encoder, cosine=target["metric"] == "cosine")
        return self._loaded[key]

    def _ask(self, target: Row, encoder: Encoder) -> None:
        """Compare an encoder with a version's canary, or make the one that it lacks."""
        collection, version = target["collection"], target["version"]
        last = self._verified.get(_key(target))
        found = canary.read(self._database, collection, version)
        if found is None:
            reason = "the version had none: made by its first worker"
            if canary.store(self._database, collection, version, encoder, reason):
                log.warning("version %s of %r had no canary; it has one now", version, collection)
            found = canary.read(self._database, collection, version)
        if found is not None:
            began = time.monotonic()
            canary.compare(encoder, found, verified_at=last.at if last else None)
            seconds = max(time.monotonic() - began, 1e-6)
            self._rates[_key(target)] = len(found.probes.texts) / seconds
        read_at = found.read_at if found else None
        self._verified[_key(target)] = _Verified(_now(), read_at)


def _key(target: Row) -> tuple[str, int, str]:
    return target["collection"], target["version"], target["fingerprint"]
