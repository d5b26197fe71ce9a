"""``embver evaluate``: measured runs of a golden set, and the gate between two versions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from embver_pg.cli.evaluate_ann import evaluate_ann
from embver_pg.cli.params import Name, numbers
from embver_pg.cli.progress import progress
from embver_pg.cli.render import table
from embver_pg.cli.session import Session, session
from embver_pg.cli.versions import encoder_name
from embver_pg.errors import InvalidArgument

if TYPE_CHECKING:
    from embver_pg.client import Collection
    from embver_pg.evaluation.run import Evaluation, Gate

_METRICS = {"ndcg": "nDCG", "recall": "recall", "mrr": "MRR"}


def evaluate(
    ctx: typer.Context,
    name: Name,
    version: Annotated[
        int | None,
        typer.Argument(metavar="[VERSION]", help="Of this version alone. [see --versions]"),
    ] = None,
    versions: Annotated[
        str | None,
        typer.Option(
            metavar="1,2",
            help="Versions, baseline first. [the active one and the rollout's target]",
        ),
    ] = None,
    golden: Annotated[
        str | None, typer.Option(metavar="NAME", help="The golden set. [the newest]")
    ] = None,
    k: Annotated[int, typer.Option("-k", "--k", min=1, help="Depth of the metrics.")] = 10,
    exact: Annotated[
        bool, typer.Option("--exact", help="Scan every vector, not the index.")
    ] = False,
    metric: Annotated[
        str | None, typer.Option(help="Of the gate: ndcg, recall or mrr. [the rollout's]")
    ] = None,
    margin: Annotated[
        float | None, typer.Option(min=0, help="How much worse it may be. [the rollout's]")
    ] = None,
    alpha: Annotated[
        float | None, typer.Option(help="Error rate of a wrong pass. [the rollout's]")
    ] = None,
    ann: Annotated[
        bool, typer.Option("--ann", help="Compare the index with exact search instead.")
    ] = False,
    queries: Annotated[int, typer.Option(min=2, help="With --ann: how many queries.")] = 300,
    stored: Annotated[
        bool,
        typer.Option(
            "--stored", help="With --ann: query with stored vectors; no encoder is asked."
        ),
    ] = False,
    goal: Annotated[float, typer.Option(help="With --ann: the recall that is wanted.")] = 0.95,
) -> None:
    """Run a golden set through the SQL search of versions, and keep the figures.

    Of two versions the gate is decided and kept: is the second not worse than the first by more
    than the margin? Exit code 3 where it is not shown.

    With --ann: how many of the exact answers the index of one version finds, for several settings,
    and the smallest that reaches the goal. Exit code 3 where none does.
    """
    run = session(ctx)
    collection = run.collection(name)
    if version is not None and versions is not None:
        raise typer.BadParameter("name VERSION or --versions", param_hint="--versions")
    chosen = numbers(versions, "--versions") or ([version] if version is not None else [])
    chosen = chosen or _default_versions(collection)
    if ann:
        if len(chosen) > 1 and versions is not None:
            raise typer.BadParameter("--ann takes one version", param_hint="--versions")
        evaluate_ann(
            run,
            collection,
            chosen[-1],
            k=k,
            queries=queries,
            golden=golden,
            stored=stored,
            goal=goal,
        )
        return
    chosen_metric = metric or _rollout_metric(collection)
    if chosen_metric not in _METRICS:
        raise typer.BadParameter(f"{metric!r} is not ndcg, recall or mrr", param_hint="--metric")
    evaluations = _measure(run, collection, chosen, golden, k, exact)
    gate = None
    if len(evaluations) == 2:
        gate = collection.gate(
            evaluations[1], evaluations[0], metric=chosen_metric, margin=margin, alpha=alpha
        )
    rows = [_figures(collection, each) for each in evaluations]
    data = {
        "collection": name,
        "k": k,
        "exact": exact,
        "queries": len(evaluations[0].query_ids),
        "evaluations": rows,
        "gate": None if gate is None else _decision(gate),
    }
    run.output.emit(data, _human(rows, gate, k))
    if gate is not None and exact:
        run.output.note(
            "exact scans speak for the models, not for their indexes: where there is one, this gate"
            " opens no promotion"
        )
    if gate is not None and not gate.comparison.passed:
        raise typer.Exit(3)


def _default_versions(collection: Collection) -> list[int]:
    active = collection.show()["active"]
    rollout = next(iter(collection.rollouts()), None)
    found = [] if active is None else [active]
    if rollout is not None and rollout["state"] in ("running", "paused", "rolled_back"):
        target = rollout["to_version"]
        live = [row["version"] for row in collection.versions() if row["state"] == "ready"]
        if target != active and (rollout["state"] != "rolled_back" or target in live):
            found.append(target)
    if not found:
        raise InvalidArgument(
            f"{collection.name!r} has neither an active version nor a rollout.",
            detail={"collection": collection.name},
            hint=f"embver evaluate {collection.name} --versions 1",
        )
    return found


def _rollout_metric(collection: Collection) -> str:
    rollout = next(iter(collection.rollouts()), None)
    return str(rollout["options"]["metric"]) if rollout else "ndcg"


def _measure(
    run: Session,
    collection: Collection,
    versions: list[int],
    golden: str | None,
    k: int,
    exact: bool,
) -> list[Evaluation]:
    row = run.embver.database.row(
        "SELECT * FROM embver_internal.find_golden_set(%s, %s)", (collection.name, golden)
    )
    assert row is not None
    for version in versions:
        # An unknown one is refused before the first is measured.
        if collection.version(version)["state"] == "filling":
            run.output.note(f"version {version} is still being filled: these are not its figures")
    total = row["queries"] * len(versions)
    with progress(run.output, f"evaluating {row['name']}", total, "queries") as meter:
        return [
            collection.evaluate(
                version, golden_set=row["name"], k=k, exact=exact, advance=meter.advance
            )
            for version in versions
        ]


def _figures(collection: Collection, evaluation: Evaluation) -> dict[str, Any]:
    from statistics import median

    from embver_pg.evaluation.statistics import mean_interval

    row = collection.version(evaluation.version)
    found: dict[str, Any] = {
        "version": evaluation.version,
        "evaluation": evaluation.id,
        "state": row["state"],
        "encoder": encoder_name(row["encoder"]),
        "milliseconds": 1000 * median(evaluation.seconds),
    }
    for metric in _METRICS:
        mean, low, high = mean_interval(evaluation.values(metric))
        found[metric] = {"mean": mean, "low": low, "high": high}
    return found


def _decision(gate: Gate) -> dict[str, Any]:
    return {"id": gate.id, "metric": gate.metric, **gate.comparison.as_detail()}


def _human(rows: list[dict[str, Any]], gate: Gate | None, k: int) -> RenderableType:
    headings = [f"{label}@{k}" for label in _METRICS.values()]
    cells = (
        [
            row["version"],
            row["encoder"],
            *(_interval(row[metric]) for metric in _METRICS),
            round(row["milliseconds"], 2),
        ]
        for row in rows
    )
    parts: list[RenderableType] = [
        table(("version", "encoder", *headings, "ms/search"), cells, title="means, 95 % intervals")
    ]
    if gate is not None:
        c = gate.comparison
        parts += [
            Text(
                f"{_METRICS[gate.metric]}@{k}: difference {c.difference:+.4f}, lower bound"
                f" {c.lower_bound:+.4f} (alpha {c.alpha:g}), margin {c.delta:g}, certifiable margin"
                f" {c.certifiable_margin:.4f}, {c.n:,} queries"
            ),
            Text(
                f"gate {gate.id}: passed" if c.passed else f"gate {gate.id}: failed",
                style="bold green" if c.passed else "bold red",
            ),
        ]
        remarks = [*c.warnings, *([c.refused] if c.refused else [])]
        parts += [Text(f"warning: {text}") for text in remarks]
    return Group(*parts)


def _interval(figure: dict[str, float]) -> str:
    return f"{figure['mean']:.4f} [{figure['low']:.4f}, {figure['high']:.4f}]"
