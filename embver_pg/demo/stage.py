"""What all steps of the demo share: the collection, the story told, the promises broken."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from embver_pg.client import Collection, Embver
from embver_pg.demo.checks import Known
from embver_pg.demo.material import TABLE, Material
from embver_pg.demo.output import Output
from embver_pg.encoders import Encoder, EncoderSpec, load


@dataclass
class Stage:
    """One run.

    Attributes:
        output: Where the story is told.
        embver: The database.
        material: The documents and questions.
        began: On the monotonic clock, in seconds.
        failures: Broken promises, for people.
        phases: Seconds by phase.
        known: Encodings of what was written, see :mod:`embver_pg.demo.checks`.
    """

    output: Output
    embver: Embver
    material: Material
    began: float
    failures: list[str] = field(default_factory=list)
    phases: dict[str, float] = field(default_factory=dict)
    known: Known = field(default_factory=dict)

    @property
    def docs(self) -> Collection:
        """The collection."""
        return Collection(self.embver, TABLE)

    def say(self, text: str) -> None:
        """Tell what happens."""
        self.output.note(f"{time.monotonic() - self.began:7.1f} s  {text}")

    def expect(self, kept: bool, otherwise: str) -> None:
        """Remember a broken promise, and say it at once."""
        if not kept:
            self.failures.append(otherwise)
            self.say(f"NOT as promised: {otherwise}")

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a part of the story."""
        began = time.monotonic()
        yield
        self.phases[name] = time.monotonic() - began

    def drain(self) -> int:
        """Work until nothing waits, with the encoders that are loaded already.

        Returns:
            Vectors written here; the workers write too.
        """
        return self.embver.drain(encoder_for=self._encoder).written

    def store(self, version: int) -> str:
        """The schema of a version's store."""
        return f"embver_{TABLE}_v{version}"

    def _encoder(self, spec: EncoderSpec) -> Encoder:
        for row in self.docs.versions():
            if EncoderSpec.from_json(row["encoder"]) == spec:
                return self.embver.encoder(row["encoder"], row["fingerprint"])
        return load(spec)
