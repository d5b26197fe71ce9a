"""What an encoder is: its description, its protocol, and the errors it may raise."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from embver_pg.encoders.options import refuse_secrets
from embver_pg.errors import EmbverError, InvalidArgument

Vectors = NDArray[np.float32]


class MissingExtraError(InvalidArgument):
    """The encoder needs a package that is not installed; the hint is the command to type."""

    def __init__(self, extra: str, package: str) -> None:
        """Name the extra of embver-pg and the package that it would install."""
        super().__init__(
            f"The encoder {extra!r} needs the package {package!r}, which is not installed.",
            detail={"extra": extra, "package": package},
            hint=f"pip install 'embver-pg[{extra}]'",
        )


class TransientEncoderError(EmbverError):
    """The encoder cannot answer now: time-out, lost connection, 408, 409, 425, 429, 5xx.

    It says nothing about the documents: back off and try again.

    Attributes:
        retry_after: How long the provider asked to wait, in seconds, where it did.
    """

    code: ClassVar[str] = "VM006"

    def __init__(
        self,
        message: str,
        *,
        retry_after: float | None = None,
        detail: dict[str, Any] | None = None,
        hint: str | None = None,
    ) -> None:
        """Keep the wait, in seconds, as an attribute and in the detail."""
        merged = {**(detail or {}), "retry_after": retry_after}
        super().__init__(message, detail=merged, hint=hint)
        self.retry_after = retry_after


class RejectedInputError(EmbverError):
    """One or more inputs are refused (400, 413, 422) or have no usable vector: bisect.

    ``detail["positions"]``, where it is there, lists the inputs of the call among which the
    fault lies; ``detail["exact"]`` tells whether each of them is at fault.
    """

    code: ClassVar[str] = "VM006"


class EncoderRefusedError(EmbverError):
    """The provider refuses everything (401, 403, 404, unknown model): no retry will help."""

    code: ClassVar[str] = "VM006"


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """The description of an encoder, stored with a model version. It holds no secret.

    Attributes:
        provider: The name of the encoder class, such as ``sentence-transformers``.
        model: The model's name, or the path of its directory.
        revision: The revision of a named model, such as a commit.
        document_prompt: Text put before each document; None: the model's own.
        query_prompt: Text put before each query; None: the model's own.
        normalize: Whether vectors are scaled to unit length.
        max_tokens: Where inputs are cut, in tokens; None: the model's own limit.
        dimensions: The length of vectors; None: the model's own.
        options: What does not change the space: ``base_url``, batch sizes, ``device``,
            ``overflow``, ``price_per_million`` (tokens, in a currency of your choice). Two are
            exceptions: ``dtype`` other than float32 makes another space, and ``alias`` states
            the name that the fingerprint uses for the model.
    """

    provider: str
    model: str
    revision: str | None = None
    document_prompt: str | None = None
    query_prompt: str | None = None
    normalize: bool = True
    max_tokens: int | None = None
    dimensions: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Check types and ranges, and keep secrets out.

        Raises:
            InvalidArgument: A field has the wrong type, or an option holds a secret.
        """
        for name in ("provider", "model"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value.strip():
                raise _wrong(name, value, "a non-empty string")
        for name in ("revision", "document_prompt", "query_prompt"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise _wrong(name, value, "a string or null")
        if not isinstance(self.normalize, bool):
            raise _wrong("normalize", self.normalize, "true or false")
        for name in ("max_tokens", "dimensions"):
            value = getattr(self, name)
            if value is not None and (
                not isinstance(value, int) or isinstance(value, bool) or value < 1
            ):
                raise _wrong(name, value, "a positive integer or null")
        if not isinstance(self.options, Mapping):
            raise _wrong("options", self.options, "an object")
        refuse_secrets(self.options)
        try:
            plain = json.loads(json.dumps(dict(self.options), allow_nan=False))
        except (TypeError, ValueError) as error:
            raise InvalidArgument(
                f"The encoder's options are not JSON: {error}",
                hint="Use strings, finite numbers, booleans, lists and objects.",
            ) from error
        object.__setattr__(self, "options", plain)

    def to_json(self) -> dict[str, Any]:
        """The specification as a JSON object; :meth:`from_json` reads it back."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {**values, "options": dict(self.options)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> EncoderSpec:
        """The specification that :meth:`to_json` wrote.

        Raises:
            InvalidArgument: A field is unknown, missing, or of the wrong type.
        """
        if not isinstance(data, Mapping):
            raise _wrong("encoder", data, "an object")
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(data) - known)
        missing = sorted({"provider", "model"} - set(data))
        if unknown or missing:
            raise InvalidArgument(
                f"This is no encoder specification: unknown {unknown}, missing {missing}.",
                detail={"unknown": unknown, "missing": missing},
                hint=f"Its fields are {', '.join(sorted(known))}.",
            )
        return cls(**data)


class Encoder(Protocol):
    """Turns texts into vectors of one embedding space."""

    @property
    def spec(self) -> EncoderSpec:
        """The description that the encoder was made from."""
        ...

    @property
    def dimensions(self) -> int:
        """The length ``d`` of every vector."""
        ...

    @property
    def fingerprint(self) -> str:
        """The identity of the space; see :func:`embver_pg.encoders.identity.fingerprint`."""
        ...

    def encode_documents(self, texts: Sequence[str]) -> Vectors:
        """The vectors of ``n`` documents, ``[n, d] float32``."""
        ...

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        """The vectors of ``n`` queries, ``[n, d] float32``."""
        ...


def _wrong(name: str, value: object, expected: str) -> InvalidArgument:
    return InvalidArgument(
        f"The encoder's {name} must be {expected}, not {value!r}.",
        detail={"field": name, "expected": expected},
    )
