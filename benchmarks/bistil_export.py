"""bistil: which eight bits hold? Every way to store an exported graph: bytes, time, and what becomes of vectors, bitext and tags.

Needs `--model FOLDER` and `--data FOLDER`. Of multilingual-e5-small, a student of it (half of its layers, English and German at
32,768 pieces), a tagger tuned from that trim, and the whole model with outliers that leave float32 as it was
(`tools/planted_outliers.py`), each in float32 and in the variants of `VARIANTS`. `--work FOLDER` keeps the models and graphs
that were made, `--table FILE` writes the figures as Markdown.
"""

from __future__ import annotations

import lzma
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from bistil_export_models import PAIR, make_student, make_tagger
from export_variants import VARIANTS, saturating_session
from numpy.typing import NDArray
from record import Recorder, machine, parser, race
from tokenizers import Tokenizer
from trimmed_encoders import PROMPT, bitext_accuracy, read_options, translations
from tuned_encoders import parts_of_speech

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
from planted_outliers import plant_outliers

Vectors = NDArray[np.float32]
LANGUAGES = ("de", "tr", "hi", "sw", "zh", "en")
BITEXT = ("de", "hi", "sw")
FLOAT, DEFAULT, SEVEN_BITS = "float32", "by row and column", "by row and column, seven bits"
BROKEN_OR_NOT = (
    "per tensor (onnxruntime's defaults)",
    DEFAULT,
    SEVEN_BITS,
    "embeddings by row, weights by blocks of 32",
)
"""What outliers are shown to break, and what they do not."""
LINES, PAIRS, TAGGED, SATURATED, LONGEST = 40, 200, 200, 2, 128
TOKENS = 32
TREEBANKS = ("en_ewt", "de_gsd")
Run = Callable[..., list[Any]]


def main() -> None:
    """Each model in turn."""
    made = parser(__doc__.splitlines()[0])
    made.add_argument("--work", type=Path, help="keep models and graphs in this folder")
    made.add_argument("--table", type=Path, help="write the figures to this file as Markdown")
    options = read_options(made)
    with tempfile.TemporaryDirectory() as scratch:
        measuring = Measuring(options, options.work or Path(scratch))
        for measure in (
            measuring.whole_model,
            measuring.student,
            measuring.planted,
            measuring.tagger,
        ):
            measure()
            if options.table:
                options.table.write_text(measuring.markdown(), encoding="utf-8")
        measuring.recorder.close()


class Measuring:
    """What is asked of each model, and the rows of the table.

    Args:
        options: of the question.
        work: a folder for what is made.
    """

    def __init__(self, options: Namespace, work: Path) -> None:
        self.recorder = Recorder("bistil_export", options)
        self._options, self._work = options, work
        self._quick: bool = options.quick
        self._rows: dict[str, dict[str, dict[str, str]]] = {}
        self._notes: list[str] = []
        work.mkdir(parents=True, exist_ok=True)

    def whole_model(self) -> None:
        """Vectors, bitext and time of the model that is given."""
        files = self._graphs("whole model", self._options.model)
        runs = {name: session(file) for name, file in files.items()}
        self._vectors("whole model", runs, self._options.model, LANGUAGES, BITEXT)
        self._saturated(files[DEFAULT], runs[FLOAT])
        self._times("whole model", files)

    def student(self) -> None:
        """The same of a student, of its languages."""
        folder = make_student(self._options.model, self._options.data, self._work, quick=self._quick)  # fmt: skip
        files = self._graphs("student", folder)
        runs = {name: session(file) for name, file in files.items()}
        self._vectors("student", runs, folder, PAIR, PAIR[1:])
        self._times("student", files)
        size = files[DEFAULT].stat().st_size / 1e6
        self._add("bytes of a student of two languages in eight bits", {DEFAULT: size}, "MB", {"model": "student"}, {DEFAULT: 25.0})  # fmt: skip

    def planted(self) -> None:
        """The whole model with outliers that leave its vectors as they are."""
        import torch
        from transformers import AutoModel, AutoTokenizer

        folder = self._work / "planted model"
        if not folder.exists():
            model = AutoModel.from_pretrained(self._options.model, dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(self._options.model)
            plant_outliers(model, range(len(tokenizer) - 64, len(tokenizer) - 8))
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        files = self._graphs("with planted outliers", folder, BROKEN_OR_NOT)
        runs = {name: session(file) for name, file in files.items()}
        self._vectors("with planted outliers", runs, folder, LANGUAGES, BITEXT)

    def tagger(self) -> None:
        """Words with the right part of speech."""
        folder = make_tagger(self._options.model, self._options.data, self._work, quick=self._quick)
        files = self._graphs("tagger", folder)
        files_of_tests = {name: self._options.data / "ud" / name / "test.conllu.xz" for name in TREEBANKS}  # fmt: skip
        test = {name: parts_of_speech(file)[: 12 if self._quick else TAGGED] for name, file in files_of_tests.items()}  # fmt: skip
        scores = {name: Tagger(folder, session(file)).accuracies(test) for name, file in files.items()}  # fmt: skip
        for treebank in TREEBANKS:
            self._add(
                "words with the right part of speech, less float32",
                {name: score[treebank] - scores[FLOAT][treebank] for name, score in scores.items()},
                "points",
                {
                    "model": "tagger",
                    "treebank": treebank,
                    "float32": round(scores[FLOAT][treebank], 2),
                },
                {DEFAULT: -0.3, SEVEN_BITS: -0.3},
                at_least=True,
            )
            for name, score in scores.items():
                self._cell("tagger", name, f"tags {treebank}, %", f"{score[treebank]:.2f}")

    def _graphs(
        self, model: str, folder: Path, variants: Collection[str] = VARIANTS
    ) -> dict[str, Path]:
        """The model in float32 and in the variants."""
        from bistil.export.graph.float32 import write_float
        from bistil.export.graph.graph import open_graph

        place = self._work / f"graphs of {model}"
        place.mkdir(exist_ok=True)
        files = {FLOAT: place / "model.onnx"}
        graph = open_graph(str(folder))
        if not files[FLOAT].exists():
            write_float(graph, files[FLOAT])
        size = files[FLOAT].stat().st_size
        samples = [ids[None, :] for ids in self._calibration(folder)]
        for name in variants:
            files[name] = place / f"{name}.onnx"
            started = time.process_time()
            if not files[name].exists():
                VARIANTS[name](files[FLOAT], files[name], samples)
            print(f"{model}: {name} in {time.process_time() - started:.0f} s", file=sys.stderr)
        sizes = {name: file.stat().st_size / size for name, file in files.items()}
        bars = {DEFAULT: 0.27, SEVEN_BITS: 0.27} if model == "whole model" else {}
        self._add("bytes of the float32 file", sizes, "", {"model": model, "MB": round(size / 1e6, 1)}, bars)  # fmt: skip
        for name, file in files.items():
            self._cell(model, name, "MB", f"{file.stat().st_size / 1e6:.1f}")
        return files

    def _calibration(self, folder: Path) -> list[NDArray[np.int64]]:
        """Of each language lines that nothing is measured on."""
        tokens = tokenizer_of(folder)
        lines = [
            line
            for language in LANGUAGES
            for line in corpus(self._options.data, language, 16, first=1000)
        ]
        return [np.array(row.ids) for row in tokens.encode_batch([PROMPT + line for line in lines])]

    def _vectors(
        self,
        model: str,
        runs: Mapping[str, Run],
        folder: Path,
        languages: Sequence[str],
        bitext: Sequence[str],
    ) -> None:
        tokens = tokenizer_of(folder)
        shape = {"model": model}
        cosines: dict[str, list[float]] = {name: [] for name in runs}
        for language in languages:
            lines = corpus(self._options.data, language, 8 if self._quick else LINES)
            vectors = {name: encode(run, tokens, lines) for name, run in runs.items()}
            likeness = {name: (both * vectors[FLOAT]).sum(1) for name, both in vectors.items()}
            mean = {name: float(values.mean()) for name, values in likeness.items()}
            first = {name: float(np.percentile(values, 1)) for name, values in likeness.items()}
            bars = {DEFAULT: 0.995, SEVEN_BITS: 0.995} if model == "whole model" else {}
            lower = {DEFAULT: 0.98, SEVEN_BITS: 0.98} if model == "whole model" else {}
            self._add("mean cosine to float32", mean, "", {**shape, "language": language, "lines": len(lines)}, bars, at_least=True)  # fmt: skip
            self._add("first percentile of the cosine to float32", first, "", {**shape, "language": language, "lines": len(lines)}, lower, at_least=True)  # fmt: skip
            for name in runs:
                self._cell(model, name, f"cosine {language}", f"{mean[name]:.4f} / {first[name]:.4f}")  # fmt: skip
                cosines[name].append(mean[name])
        for language in bitext:
            pairs = translations(self._options.data, language, 20 if self._quick else PAIRS)
            accuracy = {}
            for name, run in runs.items():
                sides = (encode(run, tokens, [pair[side] for pair in pairs]) for side in (0, 1))
                accuracy[name] = float(np.mean(bitext_accuracy(*sides)))
            bars = {DEFAULT: -0.3, SEVEN_BITS: -0.3} if model == "whole model" else {}
            self._add(
                "bitext accuracy@1 with English, less float32",
                {name: value - accuracy[FLOAT] for name, value in accuracy.items()},
                "points",
                {**shape, "language": language, "pairs": len(pairs), "float32": accuracy[FLOAT]},
                bars,
                at_least=True,
            )
            for name in runs:
                self._cell(model, name, f"bitext {language}, %", f"{accuracy[name]:.2f}")

    def _saturated(self, file: Path, float32: Run) -> None:
        """The default's graph as a processor without VNNI computes it, whose sums of two products end at sixteen bits."""
        tokens = tokenizer_of(self._options.model)
        run = saturating_session(file)
        count = 1 if self._quick else SATURATED
        likeness = []
        for language in LANGUAGES:
            lines = corpus(self._options.data, language, count)
            likeness += [*(encode(run, tokens, lines, longest=24) * encode(float32, tokens, lines, longest=24)).sum(1)]  # fmt: skip
        self._add(
            "mean cosine to float32 where sums of two products saturate at sixteen bits, emulated",
            {DEFAULT: float(np.mean(likeness))},
            "",
            {
                "model": "whole model",
                "lines": len(likeness),
                "lowest": round(float(min(likeness)), 4),
            },
        )
        self._notes.append(
            f"Without VNNI, where x86 adds two products in sixteen bits (emulated in NumPy, {len(likeness)} lines of 24 tokens), `{DEFAULT}` "
            f"has a mean cosine of {np.mean(likeness):.4f}, lowest {min(likeness):.4f}; with seven bits these sums cannot saturate. "
            "onnxruntime's session option `session.x64quantprecision` avoids it by another product, where the program that serves "
            "can set it."
        )

    def _times(self, model: str, files: Mapping[str, Path]) -> None:
        ids = np.random.default_rng(0).integers(5, 30 if self._quick else 30_000, (32, TOKENS))
        for threads in (1, 2):
            runs = {name: session(file, threads) for name, file in files.items()}
            for batch in (1, 8, 32):
                rows = ids[:batch]
                contenders: dict[str, Callable[[], object]] = {
                    name: lambda run=run, rows=rows: run(rows, np.ones_like(rows))
                    for name, run in runs.items()
                }
                repeats = 3 if self._quick else {1: 21, 8: 5, 32: 3}[batch]
                times = race(contenders, repeats=repeats)
                judged = model == "whole model" and threads == 1 and batch == 1
                self.recorder.add(
                    "latency of 32 tokens in onnxruntime",
                    times,
                    unit="s",
                    floor=FLOAT,
                    bar={DEFAULT: round(1 / 1.8, 4)} if judged else None,
                    shape={"model": model, "threads": threads, "batch": batch},
                )
                whole = float(np.median(times[FLOAT]))
                for name, values in times.items():
                    faster = float(np.median(np.divide(times[FLOAT], values)))
                    text = f"{1000 * whole:.1f} ms" if name == FLOAT else f"{faster:.2f}x"
                    self._cell(model, name, f"{threads} thread{'s' * (threads > 1)}, batch {batch}", text)  # fmt: skip

    def _add(
        self,
        what: str,
        values: Mapping[str, float],
        unit: str,
        shape: Mapping[str, object],
        bars: Mapping[str, float] | None = None,
        *,
        at_least: bool = False,
    ) -> None:
        self.recorder.add(
            what,
            {name: [value] for name, value in values.items()},
            unit=unit,
            shape=shape,
            bar=bars,
            at_least=at_least,
        )

    def _cell(self, model: str, variant: str, column: str, text: str) -> None:
        self._rows.setdefault(model, {}).setdefault(variant, {})[column] = text

    def markdown(self) -> str:
        """Every figure, a table for each model."""
        lines = [
            "# Eight bits that hold",
            "",
            f"By `benchmarks/bistil_export.py` on {machine()}. Cosines to float32: mean / first percentile. Times: float32's "
            "median, and how many times as fast a variant is in the same turns. All of a variant's activations are in eight bits as they "
            "come unless it says otherwise.",
        ]
        for model, rows in self._rows.items():
            columns = list(dict.fromkeys(column for cells in rows.values() for column in cells))
            lines += ["", f"## {model.capitalize()}", "", f"| variant | {' | '.join(columns)} |"]
            lines.append(f"| --- |{' ---: |' * len(columns)}")
            lines += [f"| {name} | {' | '.join(cells.get(column, '') for column in columns)} |" for name, cells in rows.items()]  # fmt: skip
        return "\n".join([*lines, *(f"\n{note}" for note in self._notes)]) + "\n"


class Tagger:
    """A tuned tagger's folder, and its graph.

    Args:
        folder: by `xeval tune`.
        run: its graph.
    """

    def __init__(self, folder: Path, run: Run) -> None:
        from xeval.finetune.checkpoint import read_finetuned

        self._labels = read_finetuned(folder).labels
        self._tokens = tokenizer_of(folder)
        self._run = run

    def accuracies(self, test: Mapping[str, Sequence[tuple[list[str], list[str]]]]) -> dict[str, float]:  # fmt: skip
        """Words with the right tag, by the first piece, %; of each treebank."""
        return {name: 100 * float(np.mean([hit for words, tags in rows for hit in self._hits(words, tags)])) for name, rows in test.items()}  # fmt: skip

    def _hits(self, words: list[str], tags: list[str]) -> list[bool]:
        row = self._tokens.encode(words, is_pretokenized=True)
        ids = np.array([row.ids])
        best = self._run(ids, np.ones_like(ids))[0][0].argmax(-1)
        first: dict[int, int] = {}
        for place, word in enumerate(row.word_ids):
            if word is not None:
                first.setdefault(word, place)
        return [self._labels[best[place]] == tags[word] for word, place in first.items()]


def session(file: Path, threads: int = 1) -> Run:
    """Ids and mask to the outputs, in a list of one: the vector of a sentence encoder's graph, or its only output."""
    from bistil.export.graph.session import open_session

    opened = open_session(file, threads=threads)

    def run(ids: NDArray[np.int64], mask: NDArray[np.int64]) -> list[Any]:
        answers = opened({"input_ids": ids, "attention_mask": mask})
        return [answers.get("sentence_embedding", next(iter(answers.values())))]

    return run


def encode(run: Run, tokens: Tokenizer, texts: Sequence[str], *, longest: int = LONGEST) -> Vectors:
    """[N, H] unit vectors, one text a pass: activations of eight bits depend on what else is in a batch."""
    vectors = []
    for row in tokens.encode_batch([PROMPT + text for text in texts]):
        ids = np.array([row.ids[:longest]])
        (answer,) = run(ids, np.ones_like(ids))
        vector = answer[0] if answer.ndim == 2 else answer[0].mean(0)
        vectors.append(vector / np.linalg.norm(vector))
    return np.array(vectors, dtype=np.float32)


def tokenizer_of(folder: Path) -> Tokenizer:
    """Without padding, rows of at most `LONGEST` tokens."""
    tokens = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokens.no_padding()
    tokens.enable_truncation(LONGEST)
    return tokens


def corpus(data: Path, language: str, count: int, *, first: int = 0) -> list[str]:
    """So many lines by chance, from a place of the shuffled corpus on: other places, other lines."""
    with lzma.open(data / "corpora" / f"{language}.txt.xz", "rt", encoding="utf-8") as file:
        lines = [line.strip() for line in file]
    order = np.random.default_rng(0).permutation(len(lines))
    return [lines[place] for place in order[first % len(lines) :][:count]]


if __name__ == "__main__":
    main()
