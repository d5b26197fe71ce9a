"""What the commands of one run share: the output, the database, lazily opened."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import typer

from embver_pg.cli.render import Output

if TYPE_CHECKING:
    from embver_pg.client import Collection, Embver


@dataclass
class Session:
    """One run of the command line.

    Attributes:
        output: Where results, notes and errors go.
        given_url: What ``--database-url`` said.
        command: The first word of the command.
    """

    output: Output
    given_url: str | None = None
    command: str = ""
    _embver: Embver | None = field(default=None, init=False)

    @property
    def embver(self) -> Embver:
        """The database, connected at the first use."""
        if self._embver is None:
            from embver_pg.client import connect

            self._embver = connect(self.given_url)
        return self._embver

    def collection(self, name: str) -> Collection:
        """A collection.

        Raises:
            CollectionNotFound: There is none of this name.
        """
        return self.embver.collection(name)

    def url(self) -> str:
        """The URL in use; starts the embedded server where no other is named."""
        from embver_pg.db import resolve_url

        return resolve_url(self.given_url)

    def close(self) -> None:
        """Close the connections."""
        if self._embver is not None:
            self._embver.close()
            self._embver = None


def session(ctx: typer.Context) -> Session:
    """The session of a command."""
    found = ctx.find_object(Session)
    assert found is not None
    return found
