"""The Python interface: thin objects over the SQL functions."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from embver_pg import adoption, canary, codec, schema, versions
from embver_pg.agreement import Agreement
from embver_pg.bridge import build
from embver_pg.chunking import Chunker, splitter
from embver_pg.db import DATABASE_URL, Database, Row, open_connection, resolve_url
from embver_pg.encoders import Encoder, EncoderSpec, checked, load
from embver_pg.encoders.blame import blaming
from embver_pg.encoders.probes import encode_probes
from embver_pg.errors import (
    InvalidArgument,
    RouteChanged,
    SpaceChanged,
    UnsupportedSource,
    VersionNotFound,
)
from embver_pg.evaluation.ann import GOAL, QUERIES, AnnReport, measure_ann
from embver_pg.evaluation.golden_files import GoldenSet, read_golden_set
from embver_pg.evaluation.run import Evaluation, Gate, evaluate_version, record_gate
from embver_pg.evaluation.sampling import NOISE, sample_queries
from embver_pg.planning import Plan, make_plan
from embver_pg.planning.plan import DEFAULT_SAMPLE
from embver_pg.query_cache import Queries, QueryCache, open_cache
from embver_pg.verifying import verify_in_steps
from embver_pg.worker import Worker, WorkerReport


@dataclass(frozen=True)
class Hit:
    """A document found.

    Attributes:
        key: Values of the key columns by name.
        score: Higher is better: cosine similarity, inner product, or 1 / (1 + l2 distance).
        distance: pgvector's distance; None where two versions answered together.
        rank: From 1.
        version: The version that answered.
        chunk: The part of the document that matched; 0 where documents are not cut.
    """

    key: Mapping[str, Any]
    score: float
    distance: float | None
    rank: int
    version: int
    chunk: int = 0

    @property
    def id(self) -> Any:
        """The key's value, or a tuple where the key has several columns."""
        values = tuple(self.key.values())
        return values[0] if len(values) == 1 else values


def connect(
    url: str | None = None,
    *,
    install: bool | None = None,
    query_cache: int | QueryCache | None = None,
) -> Embver:
    """Open a database.

    Args:
        url: A PostgreSQL URL; else ``EMBVER_DATABASE_URL``, else the embedded server.
        install: Install the schema where it is missing; by default only on the embedded server.
        query_cache: Keep the vectors of so many queries, or keep them in this cache; by default
            every search encodes its text.

    Raises:
        InvalidArgument: The URL is malformed, no server answers there, or it is no cache.
        IncompatibleSchema: The schema is of another release.
    """
    cache = open_cache(query_cache)
    embedded = not (url or os.environ.get(DATABASE_URL))
    resolved = resolve_url(url)
    if embedded if install is None else install:
        with open_connection(resolved) as connection:
            missing = schema.revision(connection) is None
        if missing:
            schema.init(resolved)
    return Embver(Database(resolved), cache)


class Embver:
    """A database with embver-pg installed. Safe to share between threads."""

    def __init__(self, database: Database, query_cache: QueryCache | None = None) -> None:
        self.database = database
        self.queries = Queries(query_cache)
        self._encoders: dict[str, Encoder] = {}

    def __enter__(self) -> Embver:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self.database.close()

    def create_collection(
        self, name: str, source: str, content: str, key_columns: Sequence[str] | None = None
    ) -> Collection:
        """Register a source table; see ``embver.create_collection``.

        Args:
            name: Lower-case letters, digits and underscores.
            source: The table, quoted as in SQL where it needs to be.
            content: SQL expression over the table's columns.
            key_columns: Default the primary key.

        Raises:
            AlreadyExists: The name is taken.
            UnsupportedSource: The table cannot be captured.
            InvalidContent: The expression is refused.
        """
        if isinstance(key_columns, str):
            key_columns = [key_columns]
        try:
            self.database.rows(
                "SELECT embver.create_collection(%s, %s::regclass, %s, %s::text[])",
                (name, source, content, list(key_columns) if key_columns is not None else None),
            )
        except (
            psycopg.errors.UndefinedTable,
            psycopg.errors.InvalidSchemaName,
            psycopg.errors.InvalidName,
            psycopg.errors.SyntaxError,  # too many dots
        ) as error:
            raise UnsupportedSource(
                f"There is no table {source!r}: {error.diag.message_primary}.",
                detail={"source": source, "sqlstate": error.sqlstate},
                hint="Name the table with its schema, quoted as in SQL, such as 'public.\"Docs\"'.",
            ) from error
        return Collection(self, name)

    def collection(self, name: str) -> Collection:
        """A registered collection.

        Raises:
            CollectionNotFound: There is none of this name.
        """
        self.database.rows("SELECT embver_internal.find_collection(%s)", (name,))
        return Collection(self, name)

    def collections(self) -> list[Row]:
        """All collections, as ``embver.collections`` shows them."""
        return self.database.rows("SELECT * FROM embver.collections ORDER BY name")

    def set_throttle(self, policy: Mapping[str, Any], reason: str | None = None) -> None:
        """When workers hold back the filling of stores; see ``embver.set_throttle``.

        Args:
            policy: Any of ``stop``, ``replica_lag``, ``wal_rate``, ``active_backends``,
                ``query``; an empty one lifts the throttle.
            reason: Kept in the events.
        """
        self.database.rows("SELECT embver.set_throttle(%s, %s)", (Jsonb(dict(policy)), reason))

    def throttle(self) -> Row:
        """The policy, and why workers would hold back now, as ``embver.throttle`` shows it."""
        row = self.database.row("SELECT * FROM embver.throttle")
        assert row is not None
        return row

    def worker(self, **options: Any) -> Worker:
        """A worker on this database; see :class:`embver_pg.worker.Worker`."""
        return Worker(self.database, **options)

    def drain(self, **options: Any) -> WorkerReport:
        """Work until every live store is filled and nothing waits."""
        return self.worker(**options).run(drain=True)

    def set_encoder_limits(
        self, encoder: str, *, base_url: str | None = None, **limits: float
    ) -> None:
        """What all workers of one encoder share; see ``embver.set_encoder_limits``.

        Args:
            encoder: ``provider:model``, of some version.
            base_url: Where versions use the model at several addresses.
            **limits: ``requests_per_minute``, ``tokens_per_minute``, ``concurrency``; none of
                them removes the limits.
        """
        self.database.rows(
            "SELECT embver.set_encoder_limits(%s, %s, %s)", (encoder, Jsonb(limits), base_url)
        )

    def encoder(self, spec: Mapping[str, Any], fingerprint: str, *, cosine: bool = True) -> Encoder:
        """The encoder of a version, checked once to be the one it was made with.

        Raises:
            SpaceChanged: The model behind the name is another one.
            EmbverError: The encoder cannot answer.
        """
        if fingerprint not in self._encoders:
            try:
                self._encoders[fingerprint] = self._verified(spec, fingerprint, cosine)
            except SpaceChanged:
                self.queries.forget(fingerprint)
                raise
        return self._encoders[fingerprint]

    def forget_ended(self) -> None:
        """Empty the query cache of spaces that no live version has any more."""
        if self.queries.cache is not None:
            live = self.database.value(
                "SELECT ARRAY(SELECT DISTINCT v.fingerprint FROM embver_internal.route AS t"
                " INNER JOIN embver_internal.collection AS c ON c.name = t.collection"
                " INNER JOIN embver_internal.version AS v"
                " ON v.collection_id = c.collection_id AND v.version = ANY (t.live))"
            )
            self.queries.retain(live)

    def _verified(self, spec: Mapping[str, Any], fingerprint: str, cosine: bool) -> Encoder:
        encoder = load(EncoderSpec.from_json(spec))
        if encoder.fingerprint != fingerprint:
            raise SpaceChanged(
                "The encoder is not the one that the version was made with.",
                detail={"expected": fingerprint, "found": encoder.fingerprint},
                hint="Install the same model files that the version names.",
            )
        known = canary.read_by_fingerprint(self.database, fingerprint)
        if known is not None:
            canary.compare(encoder, known)
        return checked(encoder, cosine=cosine)


class Collection:
    """A registered collection."""

    def __init__(self, embver: Embver, name: str) -> None:
        self.embver = embver
        self.name = name

    @property
    def _database(self) -> Database:
        return self.embver.database

    def show(self) -> Row:
        """The collection as ``embver.collections`` shows it."""
        row = self._database.row("SELECT * FROM embver.collections WHERE name = %s", (self.name,))
        assert row is not None
        return row

    def refresh(self) -> None:
        """Rebuild the generated objects after the source was altered.

        A long reader of the views is waited for by turns, so that others are not held up.
        """
        schema.behind_readers(
            lambda: self._database.rows("SELECT embver.refresh_collection(%s)", (self.name,))
        )

    def drop(self) -> None:
        """Forget the collection; refused while it has stores."""
        self._database.rows("SELECT embver.drop_collection(%s)", (self.name,))

    def add_version(
        self,
        encoder: str | EncoderSpec | Encoder,
        *,
        metric: str = "cosine",
        element_type: str = "vector",
        index: Mapping[str, Any] | None = None,
        chunker: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> int:
        """Create a model version and its store.

        Args:
            encoder: A URI such as ``hash:256``, a specification, or an encoder.
            metric: ``cosine``, ``l2`` or ``ip``.
            element_type: ``vector`` (up to 2,000 dimensions) or ``halfvec`` (up to 4,000).
            index: ``{"type": "hnsw", "m": 16, "ef_construction": 64}`` or ``{"type": "none"}``.
            chunker: ``{"type": "characters", "size": 1000, "overlap": 100}`` (or ``tokens`` of the
                encoder): how documents are cut; default: they are encoded whole.
            **options: Fields or options of the encoder, such as ``query_prompt``, ``base_url``.

        Returns:
            The version's number.

        Raises:
            SpaceChanged: A version of the same fingerprint has vectors of another space.
            EmbverError: An argument is refused, or the encoder cannot encode the probe texts.
        """
        spec = self._version_spec(encoder, metric, element_type, index, options, chunker)
        return versions.add_version(self._database, self.name, spec)

    def adopt_version(
        self,
        encoder: str | EncoderSpec | Encoder,
        *,
        column: str = "embedding",
        table: str | None = None,
        key_columns: Sequence[str] | None = None,
        stale_where: str | None = None,
        sample: int = 64,
        min_share: float = 0.95,
        min_cosine: float = 0.99,
        metric: str = "cosine",
        element_type: str = "vector",
        index: Mapping[str, Any] | None = None,
        chunker: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> int:
        """Create a version whose vectors exist already; its rollout copies them.

        A random sample is encoded and compared first. What has no vector, what ``stale_where``
        names and what changes after the rollout began is encoded.

        Args:
            encoder: The encoder that made the vectors.
            column: The column that holds them, ``vector`` or ``halfvec``.
            table: The side table with this column; by default the source itself.
            key_columns: The side table's columns that hold the key; default the same names.
            stale_where: SQL condition over the source: documents that must be encoded anew.
            sample: How many documents are compared.
            min_share: The share of them that must agree.
            min_cosine: From what cosine on they agree.
            metric: As for :meth:`add_version`, like the rest.
            element_type: Of the store; halfvec copies in half precision.
            index: Of the store.
            chunker: Refused: nothing tells which part of its document a vector is of.
            **options: Of the encoder.

        Returns:
            The version's number.

        Raises:
            SpaceChanged: The vectors are another model's, or mixed; the detail has the figures.
            DimensionMismatch: They have other dimensions than the encoder.
            InvalidArgument: There are none, or a name is wrong.
        """
        loaded = load(encoder, **options) if isinstance(encoder, str | EncoderSpec) else encoder
        details: dict[str, Any] = {"column": column, "stale_where": stale_where}
        if table is not None:
            keys = None if key_columns is None else list(key_columns)
            details |= {"table": table, "key_columns": keys}
        elif key_columns is not None:
            raise InvalidArgument(
                "key_columns go with a side table.",
                detail={"key_columns": list(key_columns)},
                hint="Name the table, or leave key_columns out.",
            )
        return adoption.create_version(
            self._database,
            self.name,
            self._version_spec(loaded, metric, element_type, index, {}, chunker),
            loaded,
            adoption.Origin("column" if table is None else "table", details),
            Agreement(sample, min_share, min_cosine),
        )

    def derive_version(
        self,
        version: int,
        *,
        dimensions: int | None = None,
        element_type: str | None = None,
        index: Mapping[str, Any] | None = None,
        sample: int = 64,
        min_share: float = 0.95,
        min_cosine: float = 0.99,
    ) -> int:
        """Create a version that holds another's vectors shortened, or in half precision.

        Args:
            version: A live version.
            dimensions: Keep the first so many (Matryoshka), at unit length again.
            element_type: ``halfvec`` for half precision; default that of the version.
            index: Of the store.
            sample: How many documents are compared with the encoder; none for a mere halfvec copy.
            min_share: The share of them that must agree.
            min_cosine: From what cosine on they agree.

        Returns:
            The new version's number.

        Raises:
            InvalidArgument: The encoder cannot make such vectors, or nothing would change.
            NotReady: The version is not live.
            SpaceChanged: The encoder's shorter vectors are not the beginning of its longer ones.
        """
        row = self.version(version)
        chosen = element_type or row["element_type"]
        spec = EncoderSpec.from_json(row["encoder"])
        loaded = load(spec) if dimensions is None else adoption.shortened(spec, dimensions)
        shorter = loaded.dimensions != row["dimensions"]
        return adoption.create_version(
            self._database,
            self.name,
            self._version_spec(loaded, row["metric"], chosen, index, {}, row["chunker"]),
            loaded,
            adoption.Origin("version", {"version": version}),
            Agreement(sample, min_share, min_cosine) if shorter else None,
        )

    def origin(self, version: int) -> Row:
        """What an adopted or derived version is filled with, and how its check went.

        Raises:
            VersionNotFound: The version was neither adopted nor derived.
        """
        row = self._database.row(
            "SELECT * FROM embver.origins WHERE collection = %s AND version = %s",
            (self.name, version),
        )
        if row is None:
            raise VersionNotFound(
                f"Version {version} of {self.name!r} was neither adopted nor derived.",
                detail={"collection": self.name, "version": version},
                hint=f"embver version list {self.name}",
            )
        return row

    def check_version(
        self,
        version: int,
        *,
        sample: int = 64,
        min_share: float = 0.95,
        min_cosine: float = 0.99,
    ) -> dict[str, Any]:
        """Compare an adopted or derived version with its encoder again, before a restart.

        Returns:
            The figures, which are kept.
        """
        row = self.version(version)
        encoder = self.embver.encoder(row["encoder"], row["fingerprint"])
        agreement = Agreement(sample, min_share, min_cosine)
        return adoption.check_version(self._database, self.name, row, encoder, agreement)

    def version_script(
        self,
        encoder: str | EncoderSpec | Encoder,
        *,
        metric: str = "cosine",
        element_type: str = "vector",
        index: Mapping[str, Any] | None = None,
        chunker: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> str:
        """What :meth:`add_version` would run, as a script for psql."""
        spec = self._version_spec(encoder, metric, element_type, index, options, chunker)
        return versions.version_script(self._database, self.name, spec)

    def _version_spec(
        self,
        encoder: str | EncoderSpec | Encoder,
        metric: str,
        element_type: str,
        index: Mapping[str, Any] | None,
        options: Mapping[str, Any],
        chunker: Mapping[str, Any] | None = None,
    ) -> versions.VersionSpec:
        is_encoder = hasattr(type(encoder), "encode_documents")
        loaded = cast(Encoder, encoder) if is_encoder else load(cast(Any, encoder), **options)
        # A fingerprint names one space: a model that changed behind it needs another name.
        with blaming(loaded.spec):
            fingerprint, dimensions = loaded.fingerprint, loaded.dimensions
        known = canary.read_by_fingerprint(self._database, fingerprint)
        if known is not None:
            canary.compare(loaded, known)
        cut = None if chunker is None else Chunker.from_json(chunker)
        if cut is not None:
            splitter(cut, loaded)  # said now, not by the first worker
        return versions.VersionSpec(
            encoder=loaded.spec,
            fingerprint=fingerprint,
            dimensions=dimensions,
            metric=metric,
            element_type=element_type,
            index=index or versions.DEFAULT_INDEX,
            probes=encode_probes(loaded),
            chunker=cut,
        )

    def versions(self) -> list[Row]:
        """The versions as ``embver.versions`` shows them, dropped ones left out."""
        return self._database.rows(
            "SELECT * FROM embver.versions WHERE collection = %s AND state <> 'dropped'"
            " ORDER BY version",
            (self.name,),
        )

    def version(self, number: int) -> Row:
        """One version.

        Raises:
            VersionNotFound: There is none of this number.
        """
        for row in self.versions():
            if row["version"] == number:
                return row
        raise VersionNotFound(
            f"Collection {self.name!r} has no version {number}.",
            detail={"collection": self.name, "version": number},
            hint=f"embver version list {self.name}",
        )

    def drop_version(self, version: int, *, timeout: float = 60.0) -> None:
        """Drop the store of a created or retired version."""
        versions.drop_version(self._database, self.name, version, timeout=timeout)

    def plan(
        self,
        encoder: int | str | EncoderSpec | Encoder,
        *,
        element_type: str = "vector",
        index: Mapping[str, Any] | None = None,
        chunker: Mapping[str, Any] | None = None,
        price: float | None = None,
        sample: int = DEFAULT_SAMPLE,
        encode: bool = True,
        **options: Any,
    ) -> Plan:
        """What a rollout would cost; nothing is written.

        Args:
            encoder: The number of a version, or what :meth:`add_version` takes.
            element_type: As in :meth:`add_version`; a version has its own.
            index: Likewise.
            chunker: Likewise.
            price: Of a million tokens; default the encoder's option ``price_per_million``.
            sample: Rows to look at.
            encode: Measure the time by encoding up to 256 of them (an endpoint bills them).
            **options: Fields or options of the encoder.
        """
        version = None
        cosine = True
        if isinstance(encoder, int):
            row = self.version(encoder)
            version, element_type, index = encoder, row["element_type"], row["index_spec"]
            chunker = row["chunker"]
            cosine = row["metric"] == "cosine"
            encoder = self.embver.encoder(row["encoder"], row["fingerprint"], cosine=cosine)
        elif isinstance(encoder, str | EncoderSpec):
            encoder = load(encoder, **options)
        return make_plan(
            self._database,
            self.name,
            checked(encoder, cosine=cosine),
            version=version,
            element_type=element_type,
            index=index or versions.DEFAULT_INDEX,
            chunker=None if chunker is None else Chunker.from_json(chunker),
            price=price,
            sample=sample,
            encode=encode,
        )

    def retire_version(
        self, version: int, *, force: bool = False, reason: str | None = None
    ) -> None:
        """Stop the writes of a version that serves no more.

        Args:
            version: The version's number.
            force: Retire the active version, the last one live: the searches end.
            reason: Why; needed with ``force``.
        """
        self._database.rows(
            "SELECT embver.retire_version(%s, %s, %s, %s)", (self.name, version, force, reason)
        )

    def start_rollout(
        self,
        to_version: int,
        strategy: str = "shadow",
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Start filling a version; see ``embver.start_rollout``."""
        self._database.rows(
            "SELECT embver.start_rollout(%s, %s, %s, %s)",
            (self.name, to_version, strategy, Jsonb(dict(options or {}))),
        )

    def pause_rollout(self, reason: str | None = None) -> None:
        """Stop the filling; the capture goes on."""
        self._database.rows("SELECT embver.pause_rollout(%s, %s)", (self.name, reason))

    def resume_rollout(self) -> None:
        """Go on filling.

        Raises:
            BudgetExceeded: What the budget refused still does not fit.
        """
        self._database.rows("SELECT embver.resume_rollout(%s)", (self.name,))

    def set_budget(self, **budget: float | None) -> None:
        """Change the budget of the open rollout; see ``embver.set_budget``.

        Args:
            **budget: ``tokens``, ``requests``, ``cost``, ``price_per_million``; None removes one.
        """
        self._database.rows("SELECT embver.set_budget(%s, %s)", (self.name, Jsonb(budget)))

    def abort_rollout(self, reason: str | None = None) -> None:
        """Go back to the state before the rollout."""
        self._database.rows("SELECT embver.abort_rollout(%s, %s)", (self.name, reason))

    def promote(self, *, force: bool = False, reason: str | None = None) -> None:
        """Atomic cutover to the rollout's version.

        Raises:
            NotReady: Something is missing, or the index is not valid.
            GateFailed: No passed evaluation opens this promotion.
        """
        self._database.rows("SELECT embver.promote(%s, %s, %s)", (self.name, force, reason))

    def rollback(self, reason: str | None = None) -> None:
        """The previous version is active again; nothing is lost."""
        self._database.rows("SELECT embver.rollback(%s, %s)", (self.name, reason))

    def rollouts(self) -> list[Row]:
        """The rollouts, newest first."""
        return self._database.rows(
            "SELECT * FROM embver.rollouts WHERE collection = %s ORDER BY rollout_id DESC",
            (self.name,),
        )

    def fit_bridge(self, version: int | None = None, older: int | None = None) -> Row:
        """Fit the map from an older version's vectors into a newer version's space.

        Args:
            version: The newer version; default the target of the newest rollout.
            older: The older version; default that rollout's, or the active one.

        Returns:
            The row of ``embver.bridges``, with state ``usable``.

        Raises:
            InvalidArgument: There is no such pair of versions, or no bridge between them; the
                reason is kept in ``embver.bridges``.
        """
        return build.build(self._database, self.name, version, older)

    def bridges(self) -> list[Row]:
        """Every fit and every refusal, oldest first; see ``embver.bridges``."""
        return self._database.rows(
            "SELECT * FROM embver.bridges WHERE collection = %s ORDER BY fitted_at, bridge_id",
            (self.name,),
        )

    def verify(
        self,
        version: int,
        *,
        step: int | None = None,
        advance: Callable[[int], None] = lambda count: None,
    ) -> Row:
        """Exact counts of missing, stale and orphaned vectors, in one snapshot.

        Args:
            version: The version's number.
            step: Read so many documents a statement, under one snapshot; None: one statement.
            advance: Told after each step how many documents it checked.
        """
        if step is not None:
            store = self.version(version)["store"]
            return verify_in_steps(self._database, store, step, advance)
        row = self._database.row("SELECT * FROM embver.verify(%s, %s)", (self.name, version))
        assert row is not None
        return row

    def requeue(self, version: int, only: str = "failed") -> int:
        """Enqueue ``failed``, ``missing``, ``stale`` or ``all`` documents again."""
        return int(
            self._database.value("SELECT embver.requeue(%s, %s, %s)", (self.name, version, only))
        )

    def waive(self, version: int, key: Mapping[str, Any], reason: str) -> None:
        """Accept a dead letter, so that it does not block a promotion."""
        self._database.rows(
            "SELECT embver.waive(%s, %s, %s, %s)",
            (self.name, version, Jsonb(json.loads(json.dumps(dict(key), default=str))), reason),
        )

    def route(self) -> list[Row]:
        """Which versions a query must be encoded for, now."""
        return self._database.rows("SELECT * FROM embver.route(%s)", (self.name,))

    def set_route(
        self,
        mode: str,
        share: float | None = None,
        reason: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """How searches are answered; options are weight (fused) and allow (split)."""
        self._database.rows(
            "SELECT embver.set_route(%s, %s, %s, %s, %s)",
            (self.name, mode, share, reason, Jsonb(dict(options or {}))),
        )

    def search(
        self,
        text: str,
        k: int = 10,
        *,
        route_key: str | None = None,
        filter: Mapping[str, Any] | None = None,
        mode: str | None = None,
        version: int | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> list[Hit]:
        """The documents nearest to a text, encoded with the routed version's encoder.

        A promotion between the encoding and the search is noticed: the route is asked again, once.

        Args:
            text: The query.
            k: How many documents, 1 to 10,000.
            route_key: Of the caller, for a sticky share of traffic.
            filter: Conditions on source columns, such as ``{"tenant": 5}``.
            mode: How versions are combined; default what the route says.
            version: Ask this live version, whatever the route says.
            options: ``exact``, ``ef_search``.
        """
        for last in (False, True):
            if version is not None:
                row = self.version(version)
                routed, mode = [row], "single"
            else:
                routed = self._database.rows(
                    "SELECT * FROM embver.route(%s, %s, %s)", (self.name, route_key, mode)
                )
            self.embver.forget_ended()
            try:
                return self._search(
                    [(row["version"], self._encode(row, text)) for row in routed],
                    k,
                    route_key,
                    filter,
                    mode,
                    options,
                )
            except RouteChanged:
                if last or version is not None:
                    raise
        raise AssertionError("unreachable")

    def chunk_text(self, hit: Hit) -> str | None:
        """What stands in the chunk that was found; of a document that is not cut, all of it.

        Returns:
            None where the document is gone, or a change of it is not encoded yet.
        """
        key = sql.SQL(" AND ").join(
            sql.SQL("c.{} = {}").format(sql.Identifier(name), sql.Placeholder()) for name in hit.key
        )
        query = sql.SQL(
            "SELECT c.chunk_text FROM {} AS c WHERE {} AND c.version = %s AND c.chunk = %s"
        ).format(sql.Identifier(f"embver_{self.name}", "chunks"), key)
        row = self._database.row(query, (*hit.key.values(), hit.version, hit.chunk))
        return None if row is None else row["chunk_text"]

    def search_vector(
        self,
        version: int,
        vector: Sequence[float] | np.ndarray[Any, Any],
        k: int = 10,
        *,
        filter: Mapping[str, Any] | None = None,
        mode: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> list[Hit]:
        """The documents nearest to a vector ``[d]`` of a version's space."""
        encoded = np.asarray(vector, dtype=np.float32)
        return self._search([(version, encoded)], k, None, filter, mode, options)

    def _encode(self, row: Row, text: str) -> np.ndarray[Any, Any]:
        def encode() -> np.ndarray[Any, Any]:
            encoder = self.embver.encoder(row["encoder"], row["fingerprint"])
            vector: np.ndarray[Any, Any] = encoder.encode_queries([text])[0]
            return vector

        return self.embver.queries.vector(row["fingerprint"], text, encode)

    def _search(
        self,
        queries: Sequence[tuple[int, np.ndarray[Any, Any]]],
        k: int,
        route_key: str | None,
        filter: Mapping[str, Any] | None,
        mode: str | None,
        options: Mapping[str, Any] | None,
    ) -> list[Hit]:
        each = sql.SQL("embver.query(%s, %s, %s)")
        query = sql.SQL(
            "SELECT * FROM {search}(ARRAY[{queries}], %s, %s, %s, %s, %s) ORDER BY rank"
        ).format(
            search=sql.Identifier(f"embver_{self.name}", "search"),
            queries=sql.SQL(", ").join([each] * len(queries)),
        )
        parameters: list[Any] = []
        for version, vector in queries:
            parameters += [self.name, version, codec.Vector(vector)]
        parameters += [
            k,
            route_key,
            Jsonb(filter) if filter is not None else None,
            mode,
            Jsonb(dict(options or {})),
        ]
        return [_hit(row) for row in self._database.rows(query, parameters)]

    def import_golden_set(
        self,
        golden: GoldenSet | str | Path,
        *,
        queries: str | Path | None = None,
        name: str | None = None,
    ) -> Row:
        """Store a golden set, read from BEIR layout or plain files where a path is given.

        Returns:
            set_version, queries, judgments, unknown_documents.
        """
        from embver_pg.evaluation.golden import import_golden_set

        read = (
            golden
            if isinstance(golden, GoldenSet)
            else read_golden_set(
                Path(golden), queries=Path(queries) if queries else None, name=name
            )
        )
        return import_golden_set(self._database, self.name, read)

    def evaluate(
        self,
        version: int,
        *,
        golden_set: str | None = None,
        k: int = 10,
        exact: bool = False,
        advance: Callable[[int], None] = lambda count: None,
    ) -> Evaluation:
        """Run a golden set through the SQL search of one version, and keep the figures.

        ``advance`` is told how many queries are done.
        """
        row = self.version(version)
        encoder = self.embver.encoder(row["encoder"], row["fingerprint"])
        return evaluate_version(
            self._database,
            self.name,
            row,
            encoder,
            golden_set=golden_set,
            k=k,
            exact=exact,
            advance=advance,
        )

    def evaluate_ann(
        self,
        version: int,
        *,
        k: int = 10,
        queries: int = QUERIES,
        golden_set: str | None = None,
        encode: bool = True,
        values: Sequence[int] | None = None,
        goal: float = GOAL,
        advance: Callable[[int], None] = lambda count: None,
    ) -> AnnReport:
        """Compare the index of a version with exact search, and keep the figures.

        Args:
            version: The version's number.
            k: How many documents a search asks for.
            queries: How many queries: the golden set's first, then stored vectors with noise.
            golden_set: Its name; default the newest, if there is one.
            encode: False queries with stored vectors only: no encoder is asked.
            values: Of the search option (``ef_search``), in place of the usual ones.
            goal: The recall that is wanted.
            advance: Told how many queries are done.

        Raises:
            InvalidArgument: The version has no index, or there is nothing to query with.
            NotReady: The index is not valid.
        """
        row = self.version(version)
        sample = sample_queries(
            self._database,
            self.name,
            [row],
            count=queries,
            golden_set=golden_set,
            encoder=self._version_encoder if encode else None,
            noise=NOISE,
        )
        return measure_ann(
            self._database,
            self.name,
            row,
            sample,
            k=k,
            values=values,
            goal=goal,
            advance=advance,
        )

    def _version_encoder(self, row: Row) -> Encoder:
        return self.embver.encoder(row["encoder"], row["fingerprint"])

    def gate(
        self,
        candidate: Evaluation,
        baseline: Evaluation,
        *,
        metric: str = "ndcg",
        margin: float | None = None,
        alpha: float | None = None,
    ) -> Gate:
        """Decide whether the candidate is not worse by more than the margin, and keep it."""
        return record_gate(
            self._database,
            self.name,
            candidate,
            baseline,
            metric=metric,
            margin=margin,
            alpha=alpha,
        )


def _hit(row: Row) -> Hit:
    own = ("chunk", "score", "distance", "rank", "version")
    key = {name: value for name, value in row.items() if name not in own}
    return Hit(key, **{name: row[name] for name in own})
