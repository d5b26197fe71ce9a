"""``embver demo``: a live collection changes its embedding model, and everything is counted."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

from embver_pg.client import Embver, connect
from embver_pg.demo import cutover
from embver_pg.demo.material import (
    TABLE,
    Material,
    beir_collection,
    create_table,
    python_documentation,
)
from embver_pg.demo.output import Output
from embver_pg.demo.processes import Process
from embver_pg.demo.rendering import render, show_kept
from embver_pg.demo.report import Kept, Report
from embver_pg.demo.rollout import fill_second
from embver_pg.demo.searcher import Searcher, summarize
from embver_pg.demo.site import Site, open_site, termination_as_interrupt
from embver_pg.demo.stage import Stage
from embver_pg.demo.static_model import NEW_MODEL, make_static_model
from embver_pg.demo.workers import start_worker
from embver_pg.demo.writer import Writer

_BATCHES = 44  # so many in all: one is a small part, and a dead worker holds one
_MAX_BATCH = 64


def run_demo(
    output: Output,
    *,
    beir: Path | None = None,
    keep: bool = False,
    documents: int | None = None,
) -> int:
    """Tell the whole story, and show the report.

    Args:
        output: Where to.
        beir: A collection in BEIR layout to use in place of Python's documentation.
        keep: Leave the server up.
        documents: Take so many documents at most.

    Returns:
        The exit code: 0, or 1 where a promise was broken.

    Raises:
        EmbverError: Something did not work at all.
    """
    began = time.monotonic()
    material = python_documentation(documents) if beir is None else beir_collection(beir, documents)
    with termination_as_interrupt(), open_site(keep=keep) as site:
        report = _tell(output, site, material, began, keep)
    output.emit(report, render(report))
    if report.kept is not None and not output.json_mode:
        show_kept(report.kept, output.console)
    return 1 if report.failures else 0


def _tell(output: Output, site: Site, material: Material, began: float, keep: bool) -> Report:
    with ExitStack() as stack:
        embver = stack.enter_context(connect(site.url, install=True))
        stage = Stage(output, embver, material, began)
        with stage.phase("server and version 1"):
            _serve_first(stage, site)
        with stage.phase("loading version 2"):
            stage.docs.add_version(NEW_MODEL)
            second = stage.docs.version(2)
            embver.encoder(second["encoder"], second["fingerprint"])
            questions = [query.text for query in material.golden.queries]
            searcher = Searcher(site, questions)
            stack.callback(searcher.stop)
            searcher.wait_until_searching()
            stage.say("a client searches without pause, another writes")
        writer = Writer(site.url, material)
        stack.callback(writer.stop)
        writer.start()
        workers = []
        for number in (1, 2):
            batch = max(8, min(_MAX_BATCH, len(material.rows) // _BATCHES))
            workers.append(start_worker(site, number, batch=batch))
            stack.callback(workers[-1].stop)
        return _live(stage, site, searcher, writer, workers, keep)


def _serve_first(stage: Stage, site: Site) -> None:
    """Version 1 on a table that is full before embver knows it."""
    create_table(stage.embver.database, stage.material)
    rows = len(stage.material.rows)
    stage.say(f"{rows:,} documents in an ordinary table: {stage.material.name}")
    stage.embver.create_collection(TABLE, source=TABLE, content=stage.material.content)
    encoder = make_static_model(site.directory / "static-word-vectors")
    stage.docs.add_version(encoder)
    stage.docs.start_rollout(1)
    written = stage.drain()
    stage.docs.promote()
    stage.say(f"version 1 (static word vectors): {written:,} vectors, promoted")
    golden = stage.docs.import_golden_set(stage.material.golden)
    stage.say(f"golden set: {golden['queries']} judged questions")


def _live(
    stage: Stage,
    site: Site,
    searcher: Searcher,
    writer: Writer,
    workers: list[Process],
    keep: bool,
) -> Report:
    """Everything that happens while the clients are at it."""
    doomed, survivor = workers
    with stage.phase("filling version 2"):
        filled = fill_second(stage, doomed, survivor, searcher)
    with stage.phase("gate and promotion"):
        cutover.verify(stage, writer)
        stage.say("verify: " + ("as promised" if not stage.failures else "see above"))
        promotion = cutover.promote(stage, writer)
    with stage.phase("rollback and forward"):
        moments = cutover.go_back_and_forward(stage, writer, promotion.moment)
    with stage.phase("bad version 3"):
        refused, bad = cutover.refuse_third(stage, survivor)
    with stage.phase("end"):
        verified = cutover.verify(stage, writer)
        writer.stop()
        problem = searcher.stop()
        survivor.check()
        survivor.stop()
    stage.expect(problem is None, str(problem))
    made = searcher.searches()
    searches = summarize(made)
    stage.expect(searches.failed == 0, f"{searches.failed} searches failed: {searches.errors}")
    stage.expect({1, 2} <= searches.by_version.keys(), "a version answered no search")
    failed = writer.written.failures
    stage.expect(not failed, f"{len(failed)} writes failed: {failed[:3]}")
    return Report(
        corpus=stage.material.name,
        documents=len(stage.material.rows),
        questions=len(stage.material.golden.queries),
        server=_server(stage.embver),
        quality=tuple(
            line for line in (promotion.old, filled.naive, promotion.new, bad) if line is not None
        ),
        gate=promotion.gate,
        refused=refused,
        searches=searches,
        writes=promotion.writes,
        slowest_write_seconds=writer.written.slowest,
        killed_worker=filled.killed,
        switches=cutover.timed([promotion.moment, *moments], made),
        verified=verified,
        phases=stage.phases,
        seconds=time.monotonic() - stage.began,
        failures=tuple(stage.failures),
        kept=Kept(str(site.directory), site.url, site.psql, site.stop) if keep else None,
    )


def _server(embver: Embver) -> str:
    row = embver.database.row(
        "SELECT current_setting('server_version') AS server, extversion AS pgvector"
        " FROM pg_extension WHERE extname = 'vector'"
    )
    assert row is not None
    return f"PostgreSQL {row['server']} with pgvector {row['pgvector']}"
