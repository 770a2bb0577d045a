"""Merging in weight space on a real model: two taggers, and two masked LMs, of different languages from one start.

A sentence encoder is trimmed to English and Finnish and cut to its lowest layers. From it two taggers are tuned, with one head's
random start, on universal parts of speech of one language each; and a masked LM, tuned on both languages, goes on in two copies
with one language each. Their means, RegMean by each setting, and the mixture that evolved are judged beside them in both
languages: words tagged right, on test sets that nothing was chosen by; bits per byte of held-out text. Beside the masked LMs' there
are one distilled from both, each heard in its language, and one that goes on with both languages: as many steps as the two together.

    python benchmarks/mergedistill_fuse.py --model FOLDER --data FOLDER [--quick] [--only taggers masked_lms] [--out FILE]
"""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from record import Recorder, parser, timed_dtypes
from trimmed_encoders import read_options, texts_to_choose_by
from tuned_encoders import Entities, Examples, answer, parts_of_speech, tune

from mergedistill import fuse
from teacherzoo import load_teacher
from teacherzoo.encoders.layers import config_of_layers, list_of_layers, replace_layers
from teacherzoo.rank.bits_per_byte import bits_per_byte
from vocabmerge import trim

LANGUAGES = {"en": "en_ewt", "fi": "fi_tdt"}
UPOS = (
    *("ADJ", "ADP", "ADV", "AUX", "CCONJ", "DET", "INTJ", "NOUN", "NUM", "PART", "PRON", "PROPN", "PUNCT", "SCONJ"),
    *("SYM", "VERB", "X"),
)  # fmt: skip
LENGTH, BATCH = 64, 16


@dataclass(frozen=True, kw_only=True)
class Tags(Entities):
    """Sentences (words, tags) by parts of speech; share of the words tagged right."""

    name: str = "tags"
    metric: str = "accuracy"

    def score(self, answers: Sequence[Any]) -> float:
        pairs = [
            (said, tag)
            for answer_of_row, (_, tags) in zip(answers, self.examples.test, strict=True)
            for said, tag in zip(answer_of_row, tags, strict=True)
        ]
        return 100 * sum(said == tag for said, tag in pairs) / len(pairs)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is read and tuned."""

    layers: int = 4
    pieces: int = 8192
    lines: int = 6000
    steps: int = 150
    head_steps: int = 250
    tests: int = 250
    tokens: int = 20_000
    trials: int = 10


QUICK = Sizes(layers=1, pieces=1024, lines=300, steps=3, head_steps=3, tests=44, tokens=1000, trials=5)  # fmt: skip


def main() -> None:
    asked = parser(__doc__.splitlines()[0])
    parts = ("taggers", "masked_lms")
    asked.add_argument("--only", nargs="+", choices=parts, default=parts, help="of the parts")
    options = read_options(asked)
    sizes = QUICK if options.quick else Sizes()
    torch.manual_seed(0)
    recorder = Recorder("mergedistill_fuse", options)
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        texts = texts_to_choose_by(options.data, tuple(LANGUAGES), sizes.lines, work / "text", ())
        start = small_encoder(options.model, texts, work, sizes)
        print("start made", flush=True)
        if "taggers" in options.only:
            taggers(recorder, options.data, start, work, sizes)
        if "masked_lms" in options.only:
            masked_lms(recorder, texts, start, work, sizes)
    recorder.close()


def small_encoder(model: Path, texts: Mapping[str, Any], work: Path, sizes: Sizes) -> Path:
    """The encoder with fewer pieces and layers, as a folder of transformers."""
    trim(model, texts, work / "trimmed", top=sizes.pieces, lines=None)
    encoder = transformers.AutoModel.from_pretrained(work / "trimmed")
    lowest = range(sizes.layers)
    replace_layers(encoder, torch.nn.ModuleList(list_of_layers(encoder)[place] for place in lowest))
    encoder.config = config_of_layers(encoder.config, lowest)
    encoder.save_pretrained(work / "start")
    transformers.AutoTokenizer.from_pretrained(work / "trimmed").save_pretrained(work / "start")
    return work / "start"


def taggers(recorder: Recorder, data: Path, start: Path, work: Path, sizes: Sizes) -> None:
    """Tune two, merge them, judge all in both languages."""
    tasks, folders, spoken, development = {}, [], [], {}
    for language, treebank in LANGUAGES.items():
        rows = parts_of_speech(data / "ud" / treebank / "dev.conllu.xz")
        kept_back, train = rows[: 2 * sizes.tests], rows[2 * sizes.tests :]
        examples = Examples(
            train=train,
            test=parts_of_speech(data / "ud" / treebank / "test.conllu.xz")[: sizes.tests],
            labels=UPOS,
        )
        tasks[language] = Tags(examples=examples, length=LENGTH)
        folders.append(work / f"tagger-{language}")
        tune(
            tasks[language],
            start,
            folders[-1],
            steps=sizes.steps,
            learning_rate=2e-4,
            head_rate=2e-3,
        )
        spoken.append(work / f"tagged-{language}.txt")
        spoken[-1].write_text("\n".join(tasks[language].texts()), encoding="utf-8")
        development[language] = work / f"dev-{language}.jsonl"
        lines = (json.dumps({"words": list(words), "labels": list(tags)}) for words, tags in kept_back)  # fmt: skip
        development[language].write_text("\n".join(lines), encoding="utf-8")
        print(f"tagger of {language} tuned", flush=True)

    def judge(folder: Path) -> dict[str, float]:
        return {
            language: task.score(answer(task, folder, task.examples.test)[0])
            for language, task in tasks.items()
        }

    compare(recorder, "words tagged right", folders, spoken, development, judge, work / "tags", sizes, unit="%")  # fmt: skip


def masked_lms(
    recorder: Recorder, texts: Mapping[str, list[Path]], start: Path, work: Path, sizes: Sizes
) -> None:
    """Tune one on both languages, go on with each alone, merge, and judge all on held-out lines of both."""
    lines = {language: texts[language][0].read_text(encoding="utf-8").split("\n") for language in LANGUAGES}  # fmt: skip
    held_out = {language: all_lines[::10] for language, all_lines in lines.items()}
    read = {language: [line for place, line in enumerate(all_lines) if place % 10] for language, all_lines in lines.items()}  # fmt: skip
    both = work / "masked-both"
    pretrain(start, read, both, sizes.head_steps)
    folders, spoken, development = [], [], {}
    for language in LANGUAGES:
        folders.append(work / f"masked-{language}")
        pretrain(both, {language: read[language]}, folders[-1], sizes.steps)
        spoken.append(work / f"read-{language}.txt")
        spoken[-1].write_text("\n".join(read[language]), encoding="utf-8")
        development[language] = work / f"dev-{language}.txt"
        development[language].write_text("\n".join(held_out[language][1::2][: sizes.tests]), encoding="utf-8")  # fmt: skip
        print(f"masked LM of {language} tuned", flush=True)
    trained = {"distilled": work / "masked-distilled", "on both": work / "masked-longer"}
    steps = len(folders) * sizes.steps
    pretrain(
        both, read, trained["distilled"], steps, teachers=dict(zip(read, folders, strict=True))
    )
    pretrain(both, read, trained["on both"], steps)

    def judge(folder: Path) -> dict[str, float]:
        model = load_teacher(folder)
        return {
            language: bits_per_byte(model, part[::2][: sizes.tests], max_length=LENGTH).value
            for language, part in held_out.items()
        }

    compare(recorder, "bits per byte", folders, spoken, development, judge, work / "lms", sizes, unit="bits", trained=trained)  # fmt: skip


def compare(
    recorder: Recorder,
    what: str,
    folders: Sequence[Path],
    texts: Sequence[Path],
    development: Mapping[str, Path],
    judge: Callable[[Path], dict[str, float]],
    work: Path,
    sizes: Sizes,
    *,
    unit: str,
    trained: Mapping[str, Path] | None = None,
) -> None:
    """Record each model's and each mean's score in both languages, and their average; and those of models `trained` instead."""
    work.mkdir()
    regmean: dict[str, Any] = {"by": "regmean", "texts": texts, "tokens": sizes.tokens}
    ways: dict[str, dict[str, Any]] = {
        "mean": {},
        "regmean, alpha 0.9": regmean | {"alpha": 0.9},
        "regmean, alpha 0.1": regmean | {"alpha": 0.1},
        "regmean, counts": regmean | {"alpha": 0.9, "embeddings": "counts"},
        "evolve": {"by": "evolve", "dev": development, "trials": sizes.trials},
    }
    scores = {f"of {language} alone": judge(folder) for language, folder in zip(LANGUAGES, folders, strict=True)}  # fmt: skip
    for way, options in ways.items():
        fused = fuse(folders, work / way.replace(", ", "-").replace(" ", "-"), **options)
        scores[way] = judge(fused)
        verdict = json.loads((fused / "run.json").read_text(encoding="utf-8")).get("verdict", "")
        print(f"{what}, {way}: {scores[way]} {verdict}", flush=True)
    for way, folder in (trained or {}).items():
        scores[way] = judge(folder)
        print(f"{what}, {way}: {scores[way]}", flush=True)
    shape = {"layers": sizes.layers, "pieces": sizes.pieces, "steps": sizes.steps}
    for language in LANGUAGES:
        samples = {way: [score[language]] for way, score in scores.items()}
        recorder.add(what, samples, unit=unit, shape=shape | {"language": language})
    averages = {way: [sum(score.values()) / len(score)] for way, score in scores.items()}
    recorder.add(
        what,
        averages,
        unit=unit,
        bar={"regmean, alpha 0.9": averages["mean"][0]},
        at_least=unit == "%",
        shape=shape | {"language": "both"},
    )


def pretrain(
    start: Path,
    lines: Mapping[str, Sequence[str]],
    out: Path,
    steps: int,
    *,
    teachers: Mapping[str, Path] | None = None,
) -> None:
    """A masked LM from a folder, a head made where it has none; a step reads lines of one language by chance, 15 % masked.

    With `teachers`, 0.7 of the loss is the divergence from the one of that language, over the whole vocabulary.
    """
    torch.manual_seed(0)
    chance = random.Random(0)
    tokenizer = transformers.AutoTokenizer.from_pretrained(start)
    load = transformers.AutoModelForMaskedLM.from_pretrained
    model = load(start).train()
    taught = {language: load(folder).eval() for language, folder in (teachers or {}).items()}
    collate = transformers.DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, fused=True)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, steps // 10, steps)
    for step in range(steps):
        language = list(lines)[step % len(lines)]
        chosen = chance.choices(lines[language], k=2 * BATCH)
        rows = tokenizer(chosen, truncation=True, max_length=LENGTH)
        batch = collate([{"input_ids": row} for row in rows["input_ids"]])
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled="bf16" in timed_dtypes()):
            output = model(**batch)
            loss = output.loss
            if taught:
                masked = batch["labels"] != -100
                with torch.no_grad():
                    said = taught[language](**batch).logits[masked].float().log_softmax(-1)
                heard = output.logits[masked].float().log_softmax(-1)
                divergence = torch.nn.functional.kl_div(heard, said, reduction="batchmean", log_target=True)  # fmt: skip
                loss = 0.3 * loss + 0.7 * divergence
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


if __name__ == "__main__":
    main()
