"""From an encoder's URI, such as ``hash:256``, to the encoder.

The encoders of embver-pg resolve directly, so that a stale installation cannot hide them;
any other provider is an entry point of the group ``embver_pg.encoders``.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from importlib.metadata import EntryPoint, entry_points
from typing import Any, cast

from embver_pg.encoders.base import Encoder, EncoderSpec
from embver_pg.encoders.blame import blaming
from embver_pg.encoders.identity import local_directory
from embver_pg.errors import EmbverError, InvalidArgument

GROUP = "embver_pg.encoders"
_BUILT_IN: Mapping[str, tuple[str, str]] = {
    "hash": ("embver_pg.encoders.hashing", "HashEncoder"),
    "sentence-transformers": (
        "embver_pg.encoders.sentence_transformers",
        "SentenceTransformersEncoder",
    ),
    "model2vec": ("embver_pg.encoders.model2vec", "Model2VecEncoder"),
    "openai": ("embver_pg.encoders.openai", "OpenAIEncoder"),
}
_PATHS = frozenset({"sentence-transformers", "model2vec"})
_FIELDS = frozenset(f.name for f in fields(EncoderSpec)) - {"provider", "model", "options"}
_PROTOCOL = frozenset({"spec", "dimensions", "fingerprint", "encode_documents", "encode_queries"})
_HINT = "Write provider:model, such as hash:256 or sentence-transformers:<name or path>"


def providers() -> list[str]:
    """The names that may stand before the colon of a URI, plug-ins included."""
    return sorted({*_BUILT_IN, *(point.name for point in entry_points(group=GROUP))})


def parse_uri(uri: str, **options: Any) -> EncoderSpec:
    """The specification that a URI ``provider:model`` stands for.

    A path of a directory becomes absolute, because workers read the specification from the
    database and run elsewhere.

    Args:
        uri: Such as ``sentence-transformers:<name or path>``, ``model2vec:<path>``,
            ``openai:<model>``, ``hash:<dimensions>``, or a plug-in's name.
        **options: Fields of :class:`EncoderSpec` (``revision``, ``query_prompt``, …); any
            other name goes into its ``options`` (``base_url``, …).

    Raises:
        InvalidArgument: The URI is malformed, its provider is unknown, or its path is no
            directory.
    """
    if not isinstance(uri, str):
        raise _bad(uri, "An encoder is named by a string")
    provider, colon, model = uri.partition(":")
    if not colon or not provider.strip() or not model.strip():
        raise _bad(uri, f"{uri!r} is no encoder URI")
    if provider not in _BUILT_IN:
        _plug_in(provider)
    if provider in _PATHS:
        model = str(local_directory(model) or model)
    spec = EncoderSpec(provider, model)
    if provider == "hash":
        if not model.isascii() or not model.isdigit() or int(model) < 1:
            raise _bad(uri, f"{model!r} is no number of dimensions")
        spec = replace(spec, dimensions=int(model))
    return _merged(spec, options)


def load(spec_or_uri: EncoderSpec | Mapping[str, Any] | str, **options: Any) -> Encoder:
    """The encoder of a specification, ready to encode.

    Args:
        spec_or_uri: A specification, its JSON object, or a URI.
        **options: As in :func:`parse_uri`; they replace what the specification says.

    Raises:
        InvalidArgument: The specification, the URI or an option is wrong, or the model is
            not there.
        MissingExtraError: The encoder's package is not installed.
    """
    if isinstance(spec_or_uri, EncoderSpec):
        spec = _merged(spec_or_uri, options)
    elif isinstance(spec_or_uri, Mapping):
        spec = _merged(EncoderSpec.from_json(spec_or_uri), options)
    else:
        spec = parse_uri(spec_or_uri, **options)
    factory = _factory(spec.provider)
    with blaming(spec):
        encoder = factory(spec)
    # dir() and not hasattr(): asking for the dimensions may call an endpoint.
    lacking = sorted(_PROTOCOL - set(dir(encoder)))
    if lacking:
        raise InvalidArgument(
            f"The encoder {spec.provider!r} has no {', '.join(lacking)}.",
            detail={"provider": spec.provider, "missing": lacking},
            hint="See embver_pg.encoders.base.Encoder.",
        )
    return cast("Encoder", encoder)


def _merged(spec: EncoderSpec, options: Mapping[str, Any]) -> EncoderSpec:
    changed = {name: value for name, value in options.items() if name in _FIELDS}
    extra = {name: value for name, value in options.items() if name not in _FIELDS}
    return replace(spec, **changed, options={**spec.options, **extra}) if options else spec


def _factory(provider: str) -> Callable[[EncoderSpec], object]:
    if provider in _BUILT_IN:
        module, name = _BUILT_IN[provider]
        factory: Callable[[EncoderSpec], object] = getattr(importlib.import_module(module), name)
        return factory
    point = _plug_in(provider)
    try:
        loaded: Callable[[EncoderSpec], object] = point.load()
    except EmbverError:
        raise
    except Exception as error:  # a plug-in may fail in any way when it is imported
        raise InvalidArgument(
            f"The encoder plug-in {provider!r} cannot be loaded: {error}",
            detail={"provider": provider, "entry_point": point.value},
            hint="Install the plug-in and what it needs again.",
        ) from error
    return loaded


def _plug_in(provider: str) -> EntryPoint:
    for point in entry_points(group=GROUP, name=provider):
        return point
    known = providers()
    close = difflib.get_close_matches(provider, known, n=1)
    raise InvalidArgument(
        f"There is no encoder {provider!r}.",
        detail={"provider": provider, "known": known},
        hint=f"Did you mean {close[0]!r}?" if close else f"Known are {', '.join(known)}.",
    )


def _bad(uri: object, message: str) -> InvalidArgument:
    return InvalidArgument(f"{message}.", detail={"uri": str(uri)}, hint=_HINT)
