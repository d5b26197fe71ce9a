"""How a person reads the demo's report."""

from __future__ import annotations

from rich import box
from rich.console import Console, Group, RenderableType
from rich.constrain import Constrain
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from embver_pg.demo.report import METRICS, Gate, Kept, KilledWorker, Report

_WIDTH = 100
_KINDS = ("insert", "edit", "delete")
_HEADINGS = ("nDCG@10", "recall@10", "MRR@10")


def render(report: Report) -> RenderableType:
    """The report for people."""
    title = f"{report.documents:,} documents: {report.corpus}; {report.questions} judged questions"
    parts: list[RenderableType] = [
        Text(),
        Text("embver demo", style="bold") + Text(f"   {title}", style="not bold"),
        Text(),
        _quality_table(report),
        Text("mean over the questions (95 % interval), measured through the SQL search", "dim"),
        Text(),
        _facts(report),
        Text(),
        *_statements(report),
    ]
    parts.append(Text())
    if report.failures:
        parts.append(Rule("NOT as promised", style="bold red", align="left"))
        parts += [Text(f"  ✗ {failure}", style="red") for failure in report.failures]
    else:
        parts.append(
            Text(
                "✓ The model was changed under load: no search failed, no write was lost.",
                style="bold green",
            )
        )
    return Constrain(Group(*parts), _WIDTH)


def show_kept(kept: Kept, console: Console) -> None:
    """How to look around, and how to end it: lines to copy, so they are never cut."""
    for heading, command in (
        ("The server is up. Look around:", kept.psql),
        ("And when you are done:", kept.stop),
    ):
        console.print(Text(heading, style="bold"))
        console.print(Text(f"  {command}"), soft_wrap=True)


def _quality_table(report: Report) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("what answers")
    for heading in _HEADINGS:
        table.add_column(heading, justify="right", no_wrap=True)
    for line in report.quality:
        naive = line.coverage < 1
        table.add_row(
            line.what,
            *(str(getattr(line, name)) for name in METRICS),
            style="yellow" if naive else None,
        )
    return table


def _facts(report: Report) -> Table:
    searches, writes, killed = report.searches, report.writes, report.killed_worker
    promote, back, forward = report.switches
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column()
    answers = ", ".join(f"{n:,} by version {v}" for v, n in searches.by_version.items())
    grid.add_row(
        "searches",
        f"{searches.made:,} made without pause, {searches.failed} failed; answered: {answers}",
    )
    grid.add_row(
        "",
        f"longest stall {_ms(searches.longest_stall)}; median {_ms(searches.median)},"
        f" 99 % within {_ms(searches.p99)}",
    )
    kinds = ", ".join(f"{writes.statements.get(kind, 0)} {kind}s" for kind in _KINDS)
    grid.add_row(
        "writes",
        f"{writes.documents:,} documents written during the rollout ({kinds}),"
        f" {writes.found:,} found as written after it;"
        f" slowest statement {_ms(report.slowest_write_seconds)}",
    )
    grid.add_row("kill -9", "no worker" if killed is None else _killed_line(killed))
    if (naive := _naive_line(report)) is not None:
        grid.add_row("naive", naive)
    grid.add_row("gate", _gate_line(report.gate))
    grid.add_row(
        "promotion",
        f"{promote.milliseconds:.0f} ms, checks included; longest stall of the searches around it"
        f" {promote.stall_milliseconds:.0f} ms",
    )
    grid.add_row(
        "rollback",
        f"to version {back.to_version} in {back.milliseconds:.0f} ms: {back.found} of"
        f" {back.later_documents} documents written after the promotion are as written there",
    )
    grid.add_row(
        "forward",
        f"to version {forward.to_version} again in {forward.milliseconds:.0f} ms:"
        f" {forward.found} of {forward.later_documents}",
    )
    error = report.refused.error or {}
    grid.add_row("version 3", _gate_line(report.refused))
    grid.add_row("", f"{error.get('code', '')} {error.get('message', '')}".strip())
    phases = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in report.phases.items())
    grid.add_row("time", f"{report.seconds:.0f} s on {report.server}: {phases}")
    return grid


def _statements(report: Report) -> list[RenderableType]:
    found: list[RenderableType] = [Text("In SQL, for anyone to run again:", style="bold")]
    for each in report.verified:
        found.append(Text(f"  {each.sql}", style="cyan", no_wrap=True))
        found.append(
            Text(f"  → missing {each.missing} | stale {each.stale} | orphaned {each.orphaned}")
        )
    return found


def _killed_line(killed: KilledWorker) -> str:
    after = killed.taken_over_after_seconds
    return (
        f"one of two workers (process {killed.pid}) at {killed.coverage:.0%} with"
        f" {killed.documents} documents in its hands; "
        + (f"lease taken over after {after:.1f} s, " if after is not None else "")
        + f"{killed.settled} of {killed.documents} done by the other"
    )


def _naive_line(report: Report) -> str | None:
    """The half-filled store beside the two whole ones."""
    by_version = {line.version: line for line in report.quality if line.coverage == 1}
    for line in report.quality:
        if line.coverage < 1:
            old, new = (by_version[version].ndcg.mean for version in (1, 2))
            return (
                f"a cutover at {line.coverage:.0%} would have served {line.ndcg.mean - new:+.3f}"
                f" nDCG@10 against the filled version 2 and {line.ndcg.mean - old:+.3f} against"
                " version 1, which answered instead"
            )
    return None


def _gate_line(gate: Gate) -> str:
    sign = ">" if gate.passed else "≤"
    return (
        f"version {gate.candidate} against {gate.baseline}: nDCG@10 {gate.difference:+.3f},"
        f" lower bound {gate.lower_bound:+.3f} {sign} -{gate.margin:g}:"
        f" {'passed' if gate.passed else 'refused'}"
    )


def _ms(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 10 else f"{1000 * seconds:.0f} ms"
