"""What are students of a sentence encoder worth: as bitext, beside the whole model's vectors, and under a linear probe?

    python benchmarks/sentence_students.py --model FOLDER --data FOLDER --pairs en-de,en-sw --layers 6,3 --workers 4 --out students.jsonl

The folder of data has `corpora/LANGUAGE.txt`, `tatoeba/LANGUAGE.tsv` (sentence, tabulator, its English translation) and
`sib200/LANGUAGE/train.tsv` and `test.tsv` (index, category, text, under a header), each also as `.xz`; for mixtures with `parallel`
also `parallel/LANGUAGE.tsv` (source, tabulator, target). Of every student one JSON record is written as soon as it is judged:

    bitext       accuracy at 1 from either side, of the student, of the same layers untrained ("cut"), of the whole model
    cosine       mean, to the whole model's vectors of the same sentences
    neighbours   share of the whole model's ten nearest sentences that are the student's: among its own vectors ("own"), and where
                 its vector asks an index of the whole model's ("index")
    sib200       accuracy of a logistic regression on frozen vectors, fitted in the first language, in both
    parameters, steps_per_second, seconds

and at the end, where a mixture called `hidden` was among them, a comparison of every other mixture with it: exact sign tests over
the sentences of the bitext, and Wilcoxon's test over their cosines. Students are trained by `bistil.extract` with `--workers`
processes at a time, on the GPU where there is one.
"""

from __future__ import annotations

import argparse
import json
import lzma
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from record import machine

Terms = tuple[tuple[str, float], ...]
MIXTURES: dict[str, Terms] = {
    "hidden": (("hidden", 1.0),),
    "bistil": (("attention", 1.0), ("hidden", 1.0)),
    "sentences": (),  # the preset
    "sentences+parallel": (("parallel", 1.0),),  # and this
}
NEIGHBOURS = 10
Vectors = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Job:
    """A student to make and to judge.

    Attributes:
        pair: source and target language.
        mixture: name of its terms; "cut" for none, the layers untrained.
        terms: their weights; none for "cut" and for the preset of sentence encoders.
        layers: how many, or their numbers.
        seed: of the order of batches.
        rate: the learning rate at its peak.
        steps: of the optimiser.
        batch: in each as many rows as make this times `length` tokens.
        length: tokens at most in each row.
    """

    pair: tuple[str, str]
    mixture: str
    terms: Terms
    layers: tuple[int, ...]
    seed: int
    rate: float
    steps: int
    batch: int
    length: int


@dataclass(frozen=True, kw_only=True)
class World:
    """What all students of a pair share.

    Attributes:
        model: the whole model, or a trim of it.
        trimmed: the teacher, its vocabulary trimmed to the pair.
        corpora: language to its text.
        parallel: translations from source to target, or None.
        tests: a NumPy file of the whole model's vectors, see `whole_vectors`.
        data: the folder of test sets.
        prompt: in front of every sentence.
        pairs: sentences of the bitext.
        precision: of training.
        warmup: share of the steps.
        work: a folder for students.
    """

    model: str
    trimmed: str
    corpora: dict[str, str]
    parallel: str | None
    tests: str
    data: str
    prompt: str
    pairs: int
    precision: str
    warmup: float
    work: str


def main() -> None:
    """Prepare each pair once, train and judge its students side by side, compare them."""
    arguments = _arguments()
    out = Path(arguments.out)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        worlds = {pair: _prepare(pair, arguments, Path(folder)) for pair in _pairs(arguments)}
        print(f"prepared {len(worlds)} pairs in {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)  # fmt: skip
        jobs = [job for pair in worlds for job in _jobs(pair, arguments, worlds[pair])]
        jobs.sort(key=lambda job: -job.steps * len(job.layers))
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(arguments.workers, mp_context=context, initializer=_quiet) as pool:
            futures = {pool.submit(run, job, worlds[job.pair]): job for job in jobs}
            records, items = [], {}
            for future in as_completed(futures):
                try:
                    record, judged = future.result()
                except Exception as error:  # noqa: BLE001  # a student that fails is named, the others go on
                    record, judged = {"job": asdict(futures[future]), "error": f"{type(error).__name__}: {error}"}, None  # fmt: skip
                records.append(record)
                _write(out, {**record, "machine": machine()})
                if judged is not None:
                    items[futures[future]] = judged
        for line in _comparisons(items):
            _write(out, line)
    print(_table(records))


def run(job: Job, world: World) -> tuple[dict[str, Any], dict[str, Any]]:
    """Make one student and judge it: its record, and what its items were."""
    from sentence_transformers import SentenceTransformer

    started = time.monotonic()
    if job.mixture == "cut":
        model, speed = _cut(world.trimmed, job.layers), None
    else:
        out, speed = _extract(job, world)
        model = SentenceTransformer(str(out))
    trained = time.monotonic()
    measured, items = _judge(model, job, world)
    record = {
        "job": asdict(job),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "steps_per_second": speed,
        "seconds": {"student": trained - started, "judging": time.monotonic() - trained},
        **measured,
    }
    if job.mixture != "cut":
        shutil.rmtree(out)
    return record, items


def _extract(job: Job, world: World) -> tuple[Path, float]:
    """The student's folder, and its steps a second, the first twentieth left out."""
    from bistil import Extraction, LossWeights, extract
    from bistil.losses.weights import PRESETS

    terms = dict(job.terms)
    name = f"{'-'.join(job.pair)}-{job.mixture}-{len(job.layers)}-{job.seed}-{job.rate}-{job.batch}-{os.getpid()}-{time.monotonic_ns()}"
    loss = PRESETS["sentences"].replace(**terms) if job.mixture.startswith("sentences") else LossWeights.only(**terms)  # fmt: skip
    times: list[tuple[int, float]] = []

    def watch(done: int, _total: int, what: str) -> None:
        if what.startswith("extracting"):
            times.append((done, time.monotonic()))

    out = extract(
        world.trimmed,
        world.corpora,
        Path(world.work) / name,
        source=job.pair[0],
        targets=[job.pair[1]],
        extraction=Extraction(
            layers=job.layers, loss=loss, keep_vocabulary=True, steps=job.steps, batch=job.batch, length=job.length,
            learning_rate=job.rate, warmup=world.warmup, precision=world.precision, seed=job.seed,  # type: ignore[arg-type]  # checked there
            prompts=(world.prompt,), checkpoint_every=job.steps,
        ),
        parallel=None if "parallel" not in loss else {job.pair[1]: str(world.parallel)},
        cache_dir=Path(world.work) / "cache",
        watch=watch,
    )  # fmt: skip
    late = [(done, at) for done, at in times if done >= job.steps / 20]
    seconds = late[-1][1] - late[0][1] if len(late) > 1 else 0.0
    return out, (late[-1][0] - late[0][0]) / seconds if seconds else float("nan")


def _cut(folder: str, layers: Sequence[int]) -> Any:
    """The whole model with these of its layers alone."""
    from sentence_transformers import SentenceTransformer
    from torch import nn

    from bistil.encoders.capture import encoder_of, layers_of
    from teacherzoo.encoders.layers import replace_layers

    model = SentenceTransformer(folder)
    whole = layers_of(model)
    replace_layers(encoder_of(model), nn.ModuleList([whole[number] for number in layers]))
    return model


def _judge(model: Any, job: Job, world: World) -> tuple[dict[str, Any], dict[str, Any]]:
    """Every figure of a student, and per item what the tests compare."""
    whole = np.load(world.tests)
    texts = bitext(Path(world.data), job.pair, world.pairs)
    sides = [encode(model, side, world.prompt) for side in texts]
    hits = [_hits(*sides), _hits(*sides[::-1])]
    wholes = [whole["source"], whole["target"]]
    vectors, reference = np.concatenate(sides), np.concatenate(wholes)
    cosines = (unit(vectors) * unit(reference)).sum(1)
    expected = _nearest(reference, reference)
    overlaps = {"own": _nearest(vectors, vectors), "index": _nearest(vectors, reference)}
    measured = {
        "bitext": {"from source": _percent(hits[0]), "from target": _percent(hits[1]), "whole": [_percent(_hits(*wholes)), _percent(_hits(*wholes[::-1]))]},
        "cosine": float(cosines.mean()),
        "neighbours": {name: _overlap(nearest, expected) for name, nearest in overlaps.items()},
        "sib200": {
            "student": _probe(*_topics(model, job.pair, world)),
            "whole": {language: float(whole[f"probe_{language}"]) for language in job.pair},
        },
    }  # fmt: skip
    return measured, {"hits": np.concatenate(hits), "cosines": cosines}


def whole_vectors(model: Any, pair: tuple[str, str], arguments: argparse.Namespace, file: Path) -> None:  # fmt: skip
    """Write the whole model's vectors of a pair's bitext, and the accuracies of its own probe."""
    source, target = (
        encode(model, side, arguments.prompt)
        for side in bitext(Path(arguments.data), pair, arguments.test)
    )
    world = World(
        model="", trimmed="", corpora={}, parallel=None, tests="", data=arguments.data, prompt=arguments.prompt, pairs=0,
        precision="", warmup=0.0, work="",
    )  # fmt: skip
    probes = _probe(*_topics(model, pair, world))
    accuracies: dict[str, Any] = {f"probe_{language}": value for language, value in probes.items()}
    np.savez(file, source=source, target=target, **accuracies)


def bitext(data: Path, pair: tuple[str, str], count: int) -> tuple[list[str], list[str]]:
    """Sentences of the source language and their translations; the target's file has both."""
    rows = [line.split("\t") for line in _lines(data / "tatoeba" / f"{pair[1]}.tsv")][:count]
    return [row[1] for row in rows], [row[0] for row in rows]


def encode(model: Any, texts: Sequence[str], prompt: str) -> Vectors:
    """Vectors as sentence-transformers gives them."""
    vectors: Vectors = model.encode(list(texts), prompt=prompt, batch_size=256, show_progress_bar=False)  # fmt: skip
    return vectors


def _topics(
    model: Any, pair: tuple[str, str], world: World
) -> tuple[Vectors, list[str], dict[str, tuple[Vectors, list[str]]]]:
    """Vectors and labels of SIB-200: training of the first language, tests of both."""

    def read(language: str, split: str) -> tuple[Vectors, list[str]]:
        rows = [line.split("\t") for line in _lines(Path(world.data) / "sib200" / language / f"{split}.tsv")][1:]  # fmt: skip
        return encode(model, [row[2] for row in rows], world.prompt), [row[1] for row in rows]

    train, labels = read(pair[0], "train")
    return train, labels, {language: read(language, "test") for language in pair}


def _probe(
    train: Vectors, labels: list[str], tests: dict[str, tuple[Vectors, list[str]]]
) -> dict[str, float]:
    """Per language the accuracy of a logistic regression on centred, scaled vectors, in percent."""
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
    from sklearn.pipeline import make_pipeline  # type: ignore[import-untyped]
    from sklearn.preprocessing import StandardScaler  # type: ignore[import-untyped]

    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    classifier.fit(train, labels)
    return {language: 100 * float(classifier.score(*test)) for language, test in tests.items()}


def unit(vectors: Vectors) -> Vectors:
    """Of length 1."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _hits(queries: Vectors, answers: Vectors) -> NDArray[np.bool_]:
    """[N] whether the nearest of the answers is the translation."""
    hits: NDArray[np.bool_] = (unit(queries) @ unit(answers).T).argmax(1) == np.arange(len(queries))
    return hits


def _nearest(queries: Vectors, index: Vectors) -> NDArray[np.int64]:
    """[N, 10] the nearest of an index, the sentence itself left out."""
    cosines = unit(queries) @ unit(index).T
    np.fill_diagonal(cosines, -np.inf)
    return np.argpartition(-cosines, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]


def _overlap(nearest: NDArray[np.int64], expected: NDArray[np.int64]) -> float:
    shared = [len({*row} & {*other}) for row, other in zip(nearest, expected, strict=True)]
    return 100 * float(np.mean(shared)) / NEIGHBOURS


def _percent(hits: NDArray[np.bool_]) -> float:
    return 100 * float(hits.mean())


def _comparisons(items: dict[Job, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Every mixture beside hidden states alone, everything else alike: tests over the same items."""
    from scipy.stats import binomtest, wilcoxon  # type: ignore[import-untyped]

    for job, judged in items.items():
        if job.mixture in ("hidden", "cut"):
            continue
        alike = replace(job, mixture="hidden", terms=MIXTURES["hidden"])
        if alike not in items:
            continue
        hits, plain = judged["hits"], items[alike]["hits"]
        better, worse = int((hits & ~plain).sum()), int((plain & ~hits).sum())
        differences = judged["cosines"] - items[alike]["cosines"]
        yield {
            "compared": asdict(job),
            "with": "hidden",
            "bitext": {"better": better, "worse": worse, "p": binomtest(better, better + worse).pvalue if better + worse else 1.0},
            "cosine": {"difference": float(differences.mean()), "p": float(wilcoxon(differences).pvalue)},
        }  # fmt: skip


def _table(records: list[dict[str, Any]]) -> str:
    """All students, one a line."""
    lines = [f"{'pair':7}{'mixture':26}{'L':>3}{'rate':>8}{'seed':>5}{'bitext →':>9}{'←':>7}{'whole':>13}{'cosine':>8}{'own':>7}{'index':>7}{'sib200':>13}{'whole':>13}{'steps/s':>9}"]  # fmt: skip
    for record in sorted(records, key=lambda record: json.dumps(record["job"])):
        job = record["job"]
        start = f"{'-'.join(job['pair']):7}{job['mixture']:26}{len(job['layers']):3}{job['rate']:8.0e}{job['seed']:5}"
        if "error" in record:
            lines.append(f"{start}  {record['error']}")
            continue
        topics = ["/".join(f"{value:.1f}" for value in record["sib200"][side].values()) for side in ("student", "whole")]  # fmt: skip
        whole = "/".join(f"{value:.1f}" for value in record["bitext"]["whole"])
        lines.append(
            f"{start}{record['bitext']['from source']:9.1f}{record['bitext']['from target']:7.1f}{whole:>13}{record['cosine']:8.4f}"
            f"{record['neighbours']['own']:7.1f}{record['neighbours']['index']:7.1f}{topics[0]:>13}{topics[1]:>13}"
            f"{record['steps_per_second'] or float('nan'):9.1f}"
        )
    return "\n".join(lines)


def _jobs(pair: tuple[str, str], arguments: argparse.Namespace, world: World) -> Iterator[Job]:
    mixtures = dict(_mixtures(arguments))
    if world.parallel is None:
        mixtures = {
            name: terms for name, terms in mixtures.items() if "parallel" not in dict(terms)
        }
    for layers in _layers(arguments):
        plain = Job(
            pair=pair, mixture="cut", terms=(), layers=layers, seed=0, rate=0.0, steps=0, batch=arguments.batch, length=arguments.length
        )  # fmt: skip
        if "cut" in mixtures:
            yield plain
        for name, terms in mixtures.items():
            if name == "cut":
                continue
            for seed in map(int, arguments.seeds.split(",")):
                for rate in map(float, arguments.rates.split(",")):
                    yield replace(plain, mixture=name, terms=terms, seed=seed, rate=rate, steps=arguments.steps)  # fmt: skip


def _mixtures(arguments: argparse.Namespace) -> Iterator[tuple[str, Terms]]:
    """Those with a name, and `embedding:1+similarity:0.5`."""
    for name in arguments.mixtures.split(","):
        if name == "cut" or name in MIXTURES:
            yield name, MIXTURES.get(name, ())
            continue
        parts = [part.split(":") for part in name.split("+")]
        yield name, tuple((term, float(weight)) for term, weight in parts)


def _layers(arguments: argparse.Namespace) -> list[tuple[int, ...]]:
    """Numbers such as 6, the layers that a sentence encoder's student has by default, or 1-3-5, the layers themselves."""
    from teacherzoo.encoders.layers import spread_layers

    config = json.loads((Path(arguments.model) / "config.json").read_text())
    depth = int(config["num_hidden_layers"])
    return [
        tuple(map(int, stated.split("-"))) if "-" in stated else spread_layers(depth, int(stated), "outer")
        for stated in arguments.layers.split(",")
    ]  # fmt: skip


def _pairs(arguments: argparse.Namespace) -> list[tuple[str, str]]:
    pairs = []
    for stated in arguments.pairs.split(","):
        source, _, target = stated.partition("-")
        pairs.append((source, target))
    return pairs


def _prepare(pair: tuple[str, str], arguments: argparse.Namespace, work: Path) -> World:
    """Texts, the trimmed teacher, and the whole model's vectors."""
    from sentence_transformers import SentenceTransformer

    import vocabmerge

    folder = work / "-".join(pair)
    folder.mkdir()
    data, corpora = Path(arguments.data), {}
    for language in pair:
        lines = list(dict.fromkeys(_lines(data / "corpora" / f"{language}.txt")))
        chosen = np.random.default_rng(0).permutation(len(lines))[: arguments.lines]
        corpora[language] = str(folder / f"{language}.txt")
        Path(corpora[language]).write_text("\n".join(lines[number] for number in sorted(chosen)) + "\n", encoding="utf-8")  # fmt: skip
    trimmed = arguments.model
    if not arguments.keep_vocabulary:
        trimmed = str(folder / "trimmed")
        vocabmerge.trim(Path(arguments.model), {language: [Path(file)] for language, file in corpora.items()}, Path(trimmed))  # fmt: skip
    whole_vectors(SentenceTransformer(arguments.model), pair, arguments, folder / "whole.npz")
    parallel = _path(data / "parallel" / f"{pair[1]}.tsv")
    return World(
        model=arguments.model, trimmed=trimmed, corpora=corpora, parallel=None if parallel is None else str(parallel),
        tests=str(folder / "whole.npz"), data=arguments.data, prompt=arguments.prompt, pairs=arguments.test,
        precision=arguments.precision, warmup=arguments.warmup, work=str(folder),
    )  # fmt: skip


def _lines(file: Path) -> Iterator[str]:
    """Of a text file, or of its `.xz`."""
    path = _path(file)
    if path is None:
        raise FileNotFoundError(f"{file}: neither this nor its .xz is there.")
    with lzma.open(path, "rt", encoding="utf-8", newline="\n") if path.suffix == ".xz" else path.open(encoding="utf-8", newline="\n") as stream:  # fmt: skip
        for line in stream:
            if line.strip():
                yield line.rstrip("\r\n")


def _path(file: Path) -> Path | None:
    return next((path for path in (file, file.with_name(f"{file.name}.xz")) if path.is_file()), None)  # fmt: skip


def _write(out: Path, record: dict[str, Any]) -> None:
    with out.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(record, ensure_ascii=False) + "\n")


def _quiet() -> None:
    """Workers share processors: one thread each."""
    import torch
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)


def _arguments() -> argparse.Namespace:
    made = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    made.add_argument("--model", required=True, help="folder of a sentence encoder")
    made.add_argument("--data", required=True, help="folder of texts and test sets")
    made.add_argument("--pairs", default="en-de", help="SOURCE-TARGET, with commas between")
    made.add_argument("--layers", default="6", help="how many (6,3), or their numbers (1-3-5)")
    made.add_argument("--mixtures", default="cut,hidden,bistil,sentences", help=f"of {', '.join(MIXTURES)}, cut, or TERM:WEIGHT+TERM:WEIGHT")  # fmt: skip
    made.add_argument("--seeds", default="0")
    made.add_argument("--rates", default="1e-3", help="learning rates")
    made.add_argument("--warmup", type=float, default=0.06, help="share of the steps")
    made.add_argument("--steps", type=int, default=1000)
    made.add_argument(
        "--batch", type=int, default=16, help="as many rows as make batch times length tokens"
    )
    made.add_argument("--length", type=int, default=64, help="tokens at most in a row")
    made.add_argument("--lines", type=int, default=20_000, help="of text, per language")
    made.add_argument("--test", type=int, default=1000, help="pairs of the bitext")
    made.add_argument("--prompt", default="query: ", help="in front of every sentence")
    made.add_argument("--precision", default="float32", help="float32|bfloat16")
    made.add_argument("--keep-vocabulary", action="store_true", help="do not trim the model first")
    made.add_argument("--workers", type=int, default=1, help="students at a time")
    made.add_argument("--out", default="sentence_students.jsonl")
    return made.parse_args()


if __name__ == "__main__":
    main()
