"""The options of an encoder's specification: names, types, and no secrets among them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from embver_pg.errors import InvalidArgument

if TYPE_CHECKING:
    from embver_pg.encoders.base import EncoderSpec

_SECRET = re.compile(
    r"(^|[_-])(api[_-]?key|key|secret|password|passwd|token|authorization|bearer|credentials?)$",
    re.IGNORECASE,
)


def checked_options(spec: EncoderSpec, **allowed: type | tuple[type, ...]) -> Mapping[str, Any]:
    """The options of a specification, after a check of their names and types.

    Args:
        spec: The specification.
        **allowed: The type, or types, of each option; ``alias`` and ``price_per_million`` (tokens)
            are always allowed.

    Raises:
        InvalidArgument: An option is unknown or of the wrong type.
    """
    kinds = {"alias": str, "price_per_million": (int, float), **allowed}
    for name, value in spec.options.items():
        if name not in kinds:
            raise InvalidArgument(
                f"The encoder {spec.provider!r} has no option {name!r}.",
                detail={"option": name, "known": sorted(kinds)},
                hint=f"Its options are {', '.join(sorted(kinds))}.",
            )
        kind = kinds[name]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise InvalidArgument(
                f"The option {name!r} of the encoder {spec.provider!r} has the wrong type.",
                detail={"option": name, "type": type(value).__name__},
            )
        if isinstance(value, int | float) and not isinstance(value, bool) and value <= 0:
            raise InvalidArgument(
                f"The option {name!r} must be greater than 0, not {value}.",
                detail={"option": name, "value": value},
            )
    return spec.options


def refuse_secrets(options: Mapping[str, Any], path: str = "") -> None:
    """Refuse options that hold a secret; its value does not reach the message.

    Args:
        options: The options, which are stored in the database and shown.
        path: What stands before the names in the message.

    Raises:
        InvalidArgument: A name is that of a secret, or a URL carries one.
    """
    for name, value in options.items():
        where = f"{path}{name}"
        for inner in value if isinstance(value, list | tuple) else [value]:
            if isinstance(inner, Mapping):
                refuse_secrets(inner, f"{where}.")
        secret = _SECRET.search(str(name)) is not None
        if isinstance(value, str) and "://" in value:
            secret = secret or _url_has_secret(value)
        if secret:
            raise InvalidArgument(
                f"The option {where!r} holds a secret; specifications are stored in the database.",
                detail={"option": where},
                hint="Set the key in the environment instead: export OPENAI_API_KEY=…",
            )


def _url_has_secret(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return "@" in url
    return "@" in parts.netloc or any(_SECRET.search(name) for name, _ in parse_qsl(parts.query))
