"""The encoders of a worker: loaded once, and only if they are those that the versions name."""

from __future__ import annotations

from collections.abc import Callable

from embver_pg.db import Row
from embver_pg.encoders import Encoder, EncoderSpec, checked
from embver_pg.errors import SpaceChanged


class Encoders:
    """Loaded encoders, by what makes them differ."""

    def __init__(self, encoder_for: Callable[[EncoderSpec], Encoder]) -> None:
        self._encoder_for = encoder_for
        self._loaded: dict[str, Encoder] = {}

    def of(self, target: Row) -> Encoder:
        """The encoder of a row of ``embver_internal.writable_versions()``.

        Raises:
            SpaceChanged: The model behind the name is not the version's.
        """
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
