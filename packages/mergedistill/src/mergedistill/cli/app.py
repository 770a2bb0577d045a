"""The command line of mergedistill."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mergedistill.cli.console import refusing_plainly
from mergedistill.errors import RecipeError, StageError
from teacherzoo.cli.console import Json, Quiet, package_app, progress
from teacherzoo.processes import rank

# What a command works with is imported in it: `--help` and refusals do not wait for torch.

app = package_app("mergedistill", "Many masked-LM teachers, one multilingual student.")
RecipeFile = Annotated[Path, typer.Argument(help="A recipe in YAML.")]


@app.command("run")
@refusing_plainly
def run_command(
    recipe: RecipeFile,
    until: Annotated[
        str, typer.Option(help="The last stage: rank, vocabulary, record, train or card.")
    ] = "card",
    force: Annotated[
        str | None, typer.Option(help="Run this stage even if nothing changed.")
    ] = None,
    push_to: Annotated[
        str | None,
        typer.Option("--push", metavar="OWNER/MODEL", help="Then upload the student to the Hub."),
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="With --push: a model that all may see.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Follow a recipe: a second call does nothing, an interrupted one goes on, a changed one redoes what depends on it."""
    from mergedistill.recipe.read import read_recipe
    from mergedistill.recipe.stages import FACTS, refuse_unfit_stages
    from teacherzoo.cache import NOTE
    from vocabmerge.hub.push import push_folder, refuse_bad_name

    followed = read_recipe(recipe)
    refuse_unfit_stages(until, force)
    if public and push_to is None:
        raise StageError("--public is for --push: it says who may see the model that is uploaded.")
    if push_to is not None:
        if until != "card":
            raise StageError(f"--push uploads a finished student, and --until {until} makes none.")
        refuse_bad_name(push_to)
    from mergedistill.rank.corpus_warnings import corpus_warnings
    from mergedistill.run.run import run

    with progress(quiet=quiet) as watch:
        run(followed, until="rank", force=force if force == "rank" else None, watch=watch)
    for sentence in corpus_warnings(followed) if rank() == 0 else ():
        typer.echo(f"Suspicious: {sentence}", err=True)
    with progress(quiet=quiet) as watch:
        student = run(followed, until=until, force=None if force == "rank" else force, watch=watch)
    if rank() != 0:
        return
    if push_to is not None:
        typer.echo(
            push_folder(
                student,
                push_to,
                public=public,
                message="A student distilled by mergedistill",
                ignore=[FACTS, NOTE],
            )
        )
    typer.echo(f"{student}" if until == "card" else f"done until {until}")


@app.command("plan")
@refusing_plainly
def plan_command(recipe: RecipeFile, as_json: Json = False, quiet: Quiet = False) -> None:
    """Foresee what a run will take: text, signals, memory, time. It runs the recipe in miniature and writes nothing."""
    from mergedistill.recipe.read import read_recipe

    read = read_recipe(recipe)
    from mergedistill.run.forecast import plan

    with progress(quiet=quiet) as watch:
        forecast = plan(read, watch=watch)
    if as_json:
        import json
        from dataclasses import asdict

        typer.echo(json.dumps(asdict(forecast), ensure_ascii=False))
        return
    from mergedistill.cli.tables import plan_table

    _print(plan_table(forecast))


@app.command("status")
@refusing_plainly
def status_command(recipe: RecipeFile, as_json: Json = False) -> None:
    """Say which stages of a recipe are done, and where the others would go on."""
    from mergedistill.recipe.read import read_recipe

    read = read_recipe(recipe)
    if as_json:
        import json

        from mergedistill.run.status import status

        typer.echo(json.dumps(status(read)))
        return
    from mergedistill.run.status import status_in_words

    for name, words in status_in_words(read).items():
        typer.echo(f"{name:<12}{words}")


@app.command("card")
@refusing_plainly
def card_command(recipe: RecipeFile, quiet: Quiet = False) -> None:
    """Write the student's folder and card anew from a finished training."""
    from mergedistill.recipe.read import read_recipe

    read = read_recipe(recipe)
    from mergedistill.run.run import run
    from mergedistill.run.status import status

    if not status(read)["train"]:
        raise StageError(
            f"{recipe}: the training is not finished, so there is nothing to write a card of; run the recipe."
        )
    with progress(quiet=quiet) as watch:
        student = run(read, force="card", watch=watch)
    if rank() == 0:
        typer.echo(f"{student}")


@app.command("ablate")
@refusing_plainly
def ablate_command(
    recipe: RecipeFile,
    over: Annotated[
        list[str] | None,
        typer.Option(
            help="KEY=VALUE,VALUE…, such as distil.alpha=0,0.5,1; given again, every combination runs."
        ),
    ] = None,
    with_baselines: Annotated[
        bool,
        typer.Option(
            "--baselines",
            help="Also without teachers, without text, online, with each teacher alone, with teachers dealt at random.",
        ),
    ] = False,
    seeds: Annotated[
        str,
        typer.Option(help="Seeds of the student, with commas between; the recipe's by default."),
    ] = "",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train variants of a recipe on the same recordings and put their figures into one table; the same call goes on."""
    from mergedistill.recipe.read import read_recipe
    from mergedistill.run.ablate import ablate, as_records, baselines, grid, read_over, read_seeds

    read = read_recipe(recipe)
    variants = (baselines(read) if with_baselines else []) + (grid(read_over(over)) if over else [])
    if not variants:
        raise RecipeError("There is nothing to compare; give --over KEY=VALUES or --baselines.")
    with progress(quiet=quiet) as watch:
        outcomes = ablate(read, variants, seeds=read_seeds(seeds), watch=watch)
    if as_json:
        import json

        typer.echo(json.dumps(as_records(outcomes), ensure_ascii=False))
        return
    from mergedistill.cli.tables import outcome_table

    _print(outcome_table(outcomes, languages=[*read.languages]))


@app.command("fuse")
@refusing_plainly
def fuse_command(
    models: Annotated[
        list[Path], typer.Argument(help="Folders of models that were tuned from one start.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to make.")],
    by: Annotated[str, typer.Option(help="mean, regmean or evolve.")] = "mean",
    weights: Annotated[
        str,
        typer.Option(help="Of the models, with commas between, such as 0.3,0.7; equal by default."),
    ] = "",
    text: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODEL=FILE", help="regmean: text of a model, named by its folder or number."
        ),
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option(help="regmean: what stays of the inner products of two inputs; 0.9."),
    ] = None,
    embeddings: Annotated[
        str | None, typer.Option(help="regmean: mean, or counts of pieces in the text.")
    ] = None,
    tokens: Annotated[
        int | None, typer.Option(help="regmean: tokens read of each text; 100,000.")
    ] = None,
    dev: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FILE", help="evolve: text, or labelled rows in JSON Lines, to judge by."
        ),
    ] = None,
    trials: Annotated[int | None, typer.Option(help="evolve: mixtures to judge; 40.")] = None,
    groups: Annotated[
        int | None, typer.Option(help="evolve: groups of layers with weights of their own; 1.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="evolve: of the search; 0.")] = None,
    quiet: Quiet = False,
) -> None:
    """Merge models of one architecture and one vocabulary in weight space, without training; the same call goes on."""
    from mergedistill.cli.named_files import files_of_models, named_files, read_weights
    from mergedistill.fuse.fuse import RECORD, checked, fuse

    options: dict[str, Any] = {"alpha": alpha, "embeddings": embeddings, "tokens": tokens}
    options |= {"trials": trials, "groups": groups, "seed": seed}
    shares = read_weights(weights) if weights else None
    options["texts"] = files_of_models(models, text) if text else None
    options["dev"] = named_files("--dev", dev) if dev else None
    checked(models, out, by=by, weights=shares, given=options)
    with progress(quiet=quiet) as watch:
        fused = fuse(models, out, by=by, weights=shares, watch=watch, **options)  # type: ignore[arg-type]  # it is checked there
    import json

    verdict = json.loads((fused / RECORD).read_text(encoding="utf-8")).get("verdict")
    if verdict:
        typer.echo(verdict, err=True)
    typer.echo(f"{fused}")


def _print(shown: Any) -> None:
    from rich.console import Console

    if rank() == 0:
        Console().print(shown)
