"""Which encoder raised an exception that is not of this package: it may come from any library."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from embver_pg.encoders.base import EncoderSpec

_MARK = "embver_encoder"


@contextmanager
def blaming(spec: EncoderSpec) -> Iterator[None]:
    """Write on whatever is raised which encoder was at work; its type stays what it is."""
    try:
        yield
    except Exception as error:
        with suppress(AttributeError):  # an exception without room for it
            setattr(error, _MARK, f"{spec.provider}:{spec.model}")
        raise


def encoder_of(error: Exception) -> str | None:
    """``provider:model`` of the encoder that raised an exception; None where it was none."""
    found = getattr(error, _MARK, None)
    return found if isinstance(found, str) else None
