"""``embver evaluate --ann``: the index of a version against exact search."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import typer
from rich.console import Group
from rich.text import Text

from embver_pg.cli.progress import progress
from embver_pg.cli.render import table
from embver_pg.cli.session import Session

if TYPE_CHECKING:
    from embver_pg.client import Collection
    from embver_pg.evaluation.ann import AnnReport


def evaluate_ann(
    run: Session,
    collection: Collection,
    version: int,
    *,
    k: int,
    queries: int,
    golden: str | None,
    stored: bool,
    goal: float,
) -> None:
    """Measure, show, and leave with 3 where no setting reaches the goal."""
    with progress(run.output, f"version {version}: index and exact", queries, "queries") as meter:
        report = collection.evaluate_ann(
            version,
            k=k,
            queries=queries,
            golden_set=golden,
            encode=not stored,
            goal=goal,
            advance=meter.advance,
        )
    data = {"collection": collection.name, **asdict(report), "suggested": report.suggested}
    run.output.emit(data, _human(report))
    if report.suggested is None:
        raise typer.Exit(3)


def _human(report: AnnReport) -> Group:
    cells = (
        [
            f"{each.value}{' (default)' if each.is_default else ''}",
            f"{each.recall:.4f} [{each.low:.4f}, {each.high:.4f}]",
            round(1000 * each.seconds, 2),
        ]
        for each in report.settings
    )
    title = f"version {report.version}: means over queries, 95 % intervals"
    drawn = (
        f"{report.golden:,} queries of the golden set and {report.stored:,} stored vectors with"
        f" noise; an exact search takes {1000 * report.exact_seconds:.2f} ms"
    )
    if report.suggested is None:
        verdict = Text(f"no {report.setting} that was tried reaches {report.goal:g}", "bold red")
    else:
        verdict = Text(
            f"{report.setting} {report.suggested} is the smallest whose lower bound reaches"
            f" {report.goal:g}",
            "bold green",
        )
    headings = (report.setting, f"recall@{report.k}", "ms/search")
    return Group(table(headings, cells, title=title), Text(drawn), verdict)
