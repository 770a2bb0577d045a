"""The command `extract`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bistil.cli.console import refusing_plainly
from bistil.cli.options import Data, arguments_in, given, layers_in, refuse
from bistil.errors import ExtractError
from bistil.losses.table import EXTRACT_TERMS, settings_of
from bistil.losses.weights import PRESETS, LossWeights, weights_for
from teacherzoo.cache import refuse_what_exists
from teacherzoo.cli.console import Json, Quiet, progress
from teacherzoo.processes import rank

if TYPE_CHECKING:
    from bistil.extract.plan import Plan
    from bistil.multitask.config import TeacherTasks


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("extract")(refusing_plainly(extract_command))


def extract_command(
    model: Annotated[str, typer.Argument(help="The teacher: a folder or a Hub name.")],
    source: Annotated[str, typer.Option(help="The language that tasks will be tuned on.")],
    corpus: Annotated[list[str], typer.Option(help="LANGUAGE=FILE or folder of text; repeat.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write.")],
    target: Annotated[
        list[str] | None,
        typer.Option(help="A language to use them on; repeat. None: the source's."),
    ] = None,
    reduction: Annotated[int, typer.Option(help="How many layers become one.")] = 2,
    layers: Annotated[
        str | None,
        typer.Option(
            help="last|alternate|bottom|last-k|even|outer, or numbers such as 0,3,5; last by default, of sentence encoders outer."
        ),
    ] = None,
    width: Annotated[
        int | None, typer.Option(help="Of the student's states; else as the teacher's.")
    ] = None,
    feed_forward: Annotated[
        int | None, typer.Option(help="Units of its feed-forward layers; else as the teacher's.")
    ] = None,
    heads: Annotated[
        int | None,
        typer.Option(help="Attention heads, a divisor of the width; else as the teacher's."),
    ] = None,
    units: Annotated[
        str | None,
        typer.Option(
            help="By what a narrower student's units are chosen: reconstruction (by default)|taylor|bottleneck."
        ),
    ] = None,
    style: Annotated[
        str | None,
        typer.Option(
            help=f"Terms of the loss: {'|'.join(PRESETS)}; by default what the kind of model needs: attention and hidden (bistil), of "
            "classifiers and rerankers answers_mse too (answers), of sentence encoders their vectors (sentences). Or paper: "
            "attention and hidden, layers last, rate 1e-4 and no warm-up, whatever the kind."
        ),
    ] = None,
    term: Annotated[
        list[str] | None,
        typer.Option(
            help="TERM=WEIGHT: another weight for a term; repeat. The terms: "
            + "; ".join(f"{term.name}, {term.plain_name}" for term in EXTRACT_TERMS)
        ),
    ] = None,
    init: Annotated[str, typer.Option(help="First weights: teacher|random.")] = "teacher",
    language_sft: Annotated[
        list[str] | None,
        typer.Option(help="LANGUAGE=FILE applied to the teacher in its batches; repeat."),
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Keep pieces this probable; 1e-6 by default.")
    ] = None,
    top: Annotated[int | None, typer.Option(help="Or keep this many.")] = None,
    budget: Annotated[int | None, typer.Option(help="Or keep this many, fairly.")] = None,
    keep_vocabulary: Annotated[bool, typer.Option(help="Or keep all.")] = False,
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 200_000,
    batch: Annotated[int, typer.Option(help="Blocks in a batch.")] = 8,
    length: Annotated[int, typer.Option(help="Tokens in a block.")] = 256,
    learning_rate: Annotated[
        float | None,
        typer.Option(help="At its peak.", show_default="1e-4, of sentence encoders 1e-3"),
    ] = None,
    warmup: Annotated[
        float | None,
        typer.Option(
            help="Share of steps that lead up to it.", show_default="0, of sentence encoders 0.06"
        ),
    ] = None,
    mask_rate: Annotated[
        float, typer.Option(help="Share of positions hidden in running text.")
    ] = 0.15,
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            help='Before the lines of a sentence encoder, such as "query: "; repeat for turns; else the model\'s default prompt.'
        ),
    ] = None,
    parallel: Annotated[
        list[str] | None,
        typer.Option(
            help="LANGUAGE=FILE of lines `source TAB target`, for the term parallel; repeat."
        ),
    ] = None,
    vectors: Annotated[
        Path | None,
        typer.Option(help="Folder of `teacherzoo vectors`, in place of running the teacher."),
    ] = None,
    teacher_tasks: Annotated[
        str | None,
        typer.Option(
            help="Tasks such as pos,ner,topic that the teacher is tuned on together before it teaches."
        ),
    ] = None,
    data: Data = None,
    task_language: Annotated[
        list[str] | None,
        typer.Option(help="Whose data of the tasks is learnt; repeat.", show_default="en"),
    ] = None,
    task_sampling: Annotated[
        str | None,
        typer.Option(help="Tasks take turns: even|size (by their examples).", show_default="even"),
    ] = None,
    task_steps: Annotated[
        int | None, typer.Option(help="Steps of the tuning on tasks.", show_default="1000")
    ] = None,
    task_batch: Annotated[
        int | None, typer.Option(help="Examples in such a step.", show_default="16")
    ] = None,
    task_learning_rate: Annotated[
        float | None, typer.Option(help="Of the tuning on tasks.", show_default="5e-5")
    ] = None,
    held_out_share: Annotated[
        float, typer.Option(help="Share of the text for the figures before and after.")
    ] = 0.01,
    precision: Annotated[
        str,
        typer.Option(help="auto (bfloat16 where the machine has units for it)|float32|bfloat16."),
    ] = "auto",
    optimizer: Annotated[
        str, typer.Option(help="adamw, or muon for the layers' matrices.")
    ] = "adamw",
    offload: Annotated[
        str | None, typer.Option(help="Share the teacher by ZeRO-3: cpu, or a folder.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of order and masks.")] = 0,
    checkpoint_every: Annotated[int, typer.Option(help="Steps between checkpoints.")] = 5000,
    trainer: Annotated[
        Path | None, typer.Option(help="JSON file of further Trainer arguments.")
    ] = None,
    licence: Annotated[
        list[str] | None, typer.Option(help="LANGUAGE=LICENCE of its text, for the card; repeat.")
    ] = None,
    cache_dir: Annotated[
        Path | None,
        typer.Option(
            "--cache", help="Folder that keeps trimmed teacher and blocks for other runs."
        ),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Extract a small model for a few languages out of a big one. Run it again to go on where it stopped."""
    from bistil.extract.config import PAPER, Extraction
    from bistil.text.languages import languages_of, text_files

    corpora, sfts = _pairs("--corpus", corpus), _pairs("--language-sft", language_sft or [])
    licences = _pairs("--licence", licence or [], what="LICENCE")
    translations = _pairs("--parallel", parallel or [])
    left_open = {"layers": layers_in(layers), "learning_rate": learning_rate, "warmup": warmup}
    if style == "paper":
        left_open = {name: PAPER[name] if value is None else value for name, value in left_open.items()}  # fmt: skip
    extraction = Extraction(
        reduction=reduction, width=width, feed_forward=feed_forward, heads=heads, units=units, loss=_loss(style, term or [], model, narrow=width is not None),  # type: ignore[arg-type]  # checked there
        init=init, threshold=threshold, top=top, budget=budget, keep_vocabulary=keep_vocabulary,  # type: ignore[arg-type]  # checked there
        steps=steps, batch=batch, length=length, **left_open,
        prompts=tuple(prompt or ()), mask_rate=mask_rate, held_out_share=held_out_share, precision=precision, optimizer=optimizer, offload=offload, seed=seed, checkpoint_every=checkpoint_every,  # type: ignore[arg-type]  # checked there
        arguments=arguments_in(trainer),
    )  # fmt: skip
    asked = _teacher_tasks(
        teacher_tasks, data=data, language=task_language, sampling=task_sampling, steps=task_steps, batch=task_batch,
        learning_rate=task_learning_rate,
    )  # fmt: skip
    # What needs no library that takes seconds to import is refused at once.
    for language in languages_of(source, target or [], corpora, sfts, licences):
        text_files(language, corpora[language])
    refuse_what_exists(out, ExtractError)
    from bistil.extract.run import extract

    with progress(quiet=quiet) as watch:
        extract(
            model,
            corpora,
            out,
            source=source,
            targets=target or [],
            extraction=extraction,
            language_sfts=sfts,
            licences=licences,
            parallel=translations,
            vectors=vectors,
            teacher_tasks=asked,
            cache_dir=cache_dir,
            tell=(lambda plan: None) if quiet else _tell,
            watch=watch,
        )
    if rank() != 0:
        return
    run = json.loads((out / "run.json").read_text(encoding="utf-8"))
    if as_json:
        typer.echo(json.dumps({"out": str(out), **run}))
        return
    typer.echo(
        f"{out}: {sum_of(run['plan']['student_parameters']):,} parameters, {run['seconds']:.0f} s"
    )


def sum_of(parameters: dict[str, Any]) -> int:
    """All parameters, of a plan as plain values."""
    return sum(int(parameters[part]) for part in ("embeddings", "body", "head"))


def _tell(plan: Plan) -> None:
    for line in plan.lines() if rank() == 0 else ():
        typer.echo(line, err=True)


def _loss(style: str | None, changed: list[str], model: str, *, narrow: bool) -> LossWeights | None:
    if style is not None and style not in (*PRESETS, "paper"):
        raise ExtractError(f"--style must be one of {', '.join(PRESETS)}, paper, got {style!r}.")
    settings = settings_of(EXTRACT_TERMS)
    stated: dict[str, float] = {}
    for option in changed:
        name, _, value = option.partition("=")
        if name not in LossWeights.defaults():
            terms = ", ".join(term.name for term in EXTRACT_TERMS)
            others = ", ".join(f"{setting}=NUMBER" for setting in settings)
            raise ExtractError(f"--term must be TERM=WEIGHT with a term of {terms} (or {others}), got {option!r}.")  # fmt: skip
        if name in stated:
            raise ExtractError(f"--term {name} is given twice; give it once.")
        try:
            stated[name] = settings[name].kind(value) if name in settings else float(value)
        except ValueError as error:
            raise ExtractError(f"--term {option!r}: expected a number, got {value!r}.") from error
    if style is not None:
        return PRESETS["bistil" if style == "paper" else style].replace(**stated)
    if not stated:
        return None
    from teacherzoo.encoders.kinds import model_layout
    from teacherzoo.encoders.teachers import teacher_folder

    return weights_for(model_layout(teacher_folder(model)).kind, narrow=narrow).replace(**stated)


def _teacher_tasks(
    tasks: str | None,
    *,
    data: str | None,
    language: list[str] | None,
    sampling: str | None,
    steps: int | None,
    batch: int | None,
    learning_rate: float | None,
) -> TeacherTasks | None:
    if tasks is None:
        options: dict[str, Any] = {
            "--data": data,
            "--task-language": language,
            "--task-sampling": sampling,
            "--task-steps": steps,
            "--task-batch": batch,
            "--task-learning-rate": learning_rate,
        }
        refuse(options, because="without --teacher-tasks")
        return None
    from bistil.multitask.config import PROTOCOL, TeacherTasks
    from xeval import XevalError

    changes = given(steps=steps, batch_size=batch, learning_rate=learning_rate)
    try:
        protocol = replace(PROTOCOL, **changes)
    except XevalError as error:
        raise ExtractError(f"--teacher-tasks: of the tuning, {error}.") from error
    named = tuple(task.strip() for task in tasks.split(",") if task.strip())
    others = given(data=data, languages=language and tuple(language), sampling=sampling)
    return TeacherTasks(tasks=named, protocol=protocol, **others)


def _pairs(option: str, given: list[str], *, what: str = "FILE") -> dict[str, str]:
    pairs: dict[str, str] = {}
    for pair in given:
        language, _, value = pair.partition("=")
        if not language or not value:
            raise ExtractError(f"{option} must be LANGUAGE={what}, got {pair!r}.")
        if language in pairs:
            raise ExtractError(f"{option}: {language} is given twice; put its files in one folder.")
        pairs[language] = value
    return pairs
