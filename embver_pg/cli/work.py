"""``embver worker``: drains the queues, in one process or several."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from embver_pg.cli.session import Session, session
from embver_pg.cli.watching import LogFormat, Watching


def worker(
    ctx: typer.Context,
    drain: Annotated[bool, typer.Option("--drain", help="End when nothing waits.")] = False,
    concurrency: Annotated[int, typer.Option(min=1, help="Number of processes.")] = 1,
    collection: Annotated[
        str | None, typer.Option(metavar="NAME", help="Work for this collection only.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Documents a lease, at most.")] = 1024,
    batch_seconds: Annotated[
        float,
        typer.Option(
            min=0.01, help="Seconds of encoding a lease: fewer documents where that is slow."
        ),
    ] = 2.0,
    lease: Annotated[
        float,
        typer.Option(min=1, help="Seconds until a silent worker's documents go to another."),
    ] = 300.0,
    poll: Annotated[
        float, typer.Option(min=0.01, help="Seconds between looks at an empty queue.")
    ] = 1.0,
    canary: Annotated[
        float,
        typer.Option(
            min=0,
            help="Seconds between looks whether the model behind a name is still the same; 0:"
            " before every write.",
        ),
    ] = 900.0,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=65535,
            metavar="PORT",
            help="Serve Prometheus metrics there; further processes take the next ports.",
        ),
    ] = None,
    metrics_address: Annotated[
        str, typer.Option(metavar="ADDRESS", help="The interface the metrics are served on.")
    ] = "127.0.0.1",
    log_format: Annotated[LogFormat, typer.Option(help="The form of the log on stderr.")] = (
        LogFormat.text
    ),
) -> None:
    """Encode what waits, until stopped by SIGTERM or Ctrl-C: a batch is finished or given back."""
    run = session(ctx)
    options = {
        "batch": batch,
        "batch_seconds": batch_seconds,
        "lease": lease,
        "poll": poll,
        "canary": canary,
        "collection": collection,
    }
    watching = Watching(metrics_port, metrics_address, log_format)
    if concurrency > 1:
        from embver_pg.cli.processes import run_processes

        _must_exist(run, collection)  # also: a wrong URL is reported once, and here
        commands = [
            [*_arguments(options, drain), *watching.arguments(number)]
            for number in range(concurrency)
        ]
        raise typer.Exit(run_processes(run, commands))
    _work(run, drain, options, watching)


def _work(run: Session, drain: bool, options: dict[str, Any], watching: Watching) -> None:
    import logging
    import os

    from embver_pg.cli.filling import log_to, supervised

    log_to(run.output, watching.formatter())
    log = logging.getLogger("embver_pg.worker")
    on_step = watching.listener(run.embver.database, _log_step)
    made = run.embver.worker(on_step=on_step, **options)
    log.info("worker %s begins", made.worker_id)
    report, stopped = supervised(
        made,
        run.output,
        drain=drain,
        collection=options["collection"],
        show=drain and run.output.interactive,
    )
    log.info("worker %s ends%s", made.worker_id, ", as it was told" if stopped else "")
    data = {
        "worker": made.worker_id,
        "pid": os.getpid(),
        "written": report.written,
        "failed": report.failed,
        "returned": report.returned,
        "truncated": report.truncated,
        "seconds": report.seconds,
        "stopped": stopped,
    }
    run.output.emit(
        data,
        f"{report.written:,} vectors written, {report.failed:,} documents failed,"
        f" {report.returned:,} put back, {report.truncated:,} cut, {report.seconds:.1f} s",
    )


def _log_step(name: str, figures: dict[str, Any]) -> None:
    import logging

    log = logging.getLogger("embver_pg.worker")
    if name == "completed":
        log.info(
            "%(store)s: %(written)s written, %(failed)s failed, %(returned)s put back", figures
        )
        if figures["truncated"]:
            log.info("%(store)s: %(truncated)s documents are longer than the model reads", figures)
    elif name == "given_back":
        log.info("%(store)s: lease %(lease)s given back", figures)
    elif name == "indexed":
        log.info("%(store)s: the index stands", figures)


def _arguments(options: dict[str, Any], drain: bool) -> list[str]:
    found = ["worker", *(["--drain"] if drain else [])]
    for name, value in options.items():
        if value is not None:
            found += [f"--{name.replace('_', '-')}", str(value)]
    return found


def _must_exist(run: Session, name: str | None) -> None:
    from embver_pg.errors import CollectionNotFound

    # The table, not the function that administrators call: a worker's role may read it.
    rows = run.embver.database.rows("SELECT name FROM embver_internal.collection")
    if name is not None and {"name": name} not in rows:
        raise CollectionNotFound(
            f"There is no collection {name!r}.",
            detail={"collection": name},
            hint="embver collection list",
        )
