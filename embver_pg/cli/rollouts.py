"""``embver rollout``: from the active version to another, and back."""

from __future__ import annotations

from typing import Annotated

import typer

from embver_pg.cli import rollout_money, rollout_run, rollout_status
from embver_pg.cli.params import Name, Reason, Version, pairs
from embver_pg.cli.session import Session, session

app = typer.Typer(help="Change the model of a collection.", no_args_is_help=True)
app.command("plan")(rollout_money.plan)
app.command("budget")(rollout_money.budget)


@app.command()
def start(
    ctx: typer.Context,
    name: Name,
    version: Version,
    strategy: Annotated[str, typer.Option(help="shadow, in this release.")] = "shadow",
    metric: Annotated[str | None, typer.Option(help="Of the gate. [ndcg]")] = None,
    margin: Annotated[
        float | None, typer.Option(help="How much worse it may be. [0.02]", show_default=False)
    ] = None,
    alpha: Annotated[
        float | None, typer.Option(help="Error rate of a wrong pass. [0.05]", show_default=False)
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option",
            "-o",
            metavar="NAME=VALUE",
            help='max_lag, max_age, max_changed, or budget={"tokens": 1000000}.',
        ),
    ] = None,
) -> None:
    """Begin to fill a version; the capture writes to it from now on."""
    run = session(ctx)
    given = {"metric": metric, "margin": margin, "alpha": alpha}
    options = pairs(option or [], "--option")
    options.update({key: value for key, value in given.items() if value is not None})
    run.collection(name).start_rollout(version, strategy, options)
    _emit(run, name, f"Version {version} of {name} is being filled.")
    run.output.note(f"next: embver worker --drain, or embver rollout run {name}")


@app.command("run")
def run_rollout(
    ctx: typer.Context,
    name: Name,
    batch: Annotated[int, typer.Option(min=1, help="Documents a lease, at most.")] = 1024,
) -> None:
    """Work the queue of the collection until the rollout's version is ready, index included."""
    rollout_run.run_until_ready(session(ctx), name, batch)


@app.command()
def status(ctx: typer.Context, name: Name) -> None:
    """Show the newest rollout: how far it is and what blocks a promotion."""
    rollout_status.show(session(ctx), name)


@app.command()
def pause(ctx: typer.Context, name: Name, reason: Reason = None) -> None:
    """Stop the filling within a batch; the capture goes on."""
    run = session(ctx)
    run.collection(name).pause_rollout(reason)
    _emit(run, name, f"The rollout of {name} is paused.")


@app.command()
def resume(ctx: typer.Context, name: Name) -> None:
    """Go on filling."""
    run = session(ctx)
    run.collection(name).resume_rollout()
    _emit(run, name, f"The rollout of {name} goes on.")


@app.command()
def abort(ctx: typer.Context, name: Name, reason: Reason = None) -> None:
    """Go back to the state before the rollout started; vectors stay for a restart."""
    run = session(ctx)
    run.collection(name).abort_rollout(reason)
    _emit(run, name, f"The rollout of {name} is aborted.")


@app.command()
def promote(
    ctx: typer.Context,
    name: Name,
    force: Annotated[
        bool, typer.Option("--force", help="Without the gate and completeness; needs --reason.")
    ] = False,
    reason: Reason = None,
) -> None:
    """Atomic cutover to the rollout's version; exit code 3 where no passed gate opens it."""
    run = session(ctx)
    collection = run.collection(name)
    collection.promote(force=force, reason=reason)
    row = collection.show()
    _emit(run, name, f"Version {row['active']} of {name} is active.")
    if row["previous"] is not None:
        run.output.note(f"to go back: embver rollout rollback {name}")


@app.command()
def rollback(ctx: typer.Context, name: Name, reason: Reason = None) -> None:
    """The previous version is active again; nothing written since is lost."""
    run = session(ctx)
    collection = run.collection(name)
    collection.rollback(reason)
    _emit(run, name, f"Version {collection.show()['active']} of {name} is active again.")


def _emit(run: Session, name: str, human: str) -> None:
    """The collection's route and newest rollout as JSON, a sentence for people."""
    collection = run.collection(name)
    row = collection.show()
    data = {
        "collection": name,
        "active": row["active"],
        "previous": row["previous"],
        "rollout": next(iter(collection.rollouts()), None),
    }
    run.output.emit(data, human)
