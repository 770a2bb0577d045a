"""The world on disk, in the layout of a folder of real multilingual data."""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from toyworld_lexicon import LANGUAGES
from toyworld_realizer import Token
from toyworld_tasks import Question
from toyworld_world import World

ROWS = {"train": 1000, "dev": 200, "test": 400}
FOLDERS = ("ud", "ner", "sib200", "nli", "paraphrase", "xquad", "tatoeba")  # of labelled data


def write_folder(
    world: World,
    folder: Path,
    languages: Sequence[str] = (),
    words: int = 200_000,
    rows: Mapping[str, int] = ROWS,
    tasks: Sequence[str] = FOLDERS,
) -> Path:
    """Write the folder that `toyworld.write_world` describes."""
    check(folder, languages, words, tasks)
    languages = languages or world.languages
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        _fill(partial, world, languages, words, rows, tasks)
        partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def check(
    folder: Path, languages: Sequence[str], words: int, tasks: Sequence[str] = FOLDERS
) -> None:
    """Refuse what cannot be written, before any work is done."""
    if folder.exists():
        raise ValueError(f"{folder} exists already: name a new folder or remove it first")
    if words < 1:
        raise ValueError(f"a corpus needs at least 1 word, got {words!r}")
    for language in languages:
        if language not in LANGUAGES:
            raise ValueError(f"language must be one of {', '.join(LANGUAGES)}, got {language!r}")
    for task in tasks:
        if task not in FOLDERS:
            raise ValueError(f"task must be one of {', '.join(FOLDERS)}, got {task!r}")


def _fill(
    folder: Path,
    world: World,
    languages: Sequence[str],
    words: int,
    rows: Mapping[str, int],
    tasks: Sequence[str],
) -> None:
    entries = []
    for path, content, about in _files(world, languages, words, rows, tasks):
        raw = content.encode()
        packed = lzma.compress(raw, preset=1)
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(packed)
        size = {
            "path": path,
            "bytes": len(packed),
            "sha256": hashlib.sha256(packed).hexdigest(),
            "raw_bytes": len(raw),
        }
        entries.append(size | about)
    labels = {"PER": "PER", "LOC": "LOC", "ORG": "ORG"}
    manifest = {
        "format": 1,
        "tree": "toyworld",
        "seed": world.seed,
        "share": world.share,
        "frames": world.frames,
        "ner_common_labels": labels,
        "entries": entries,
    }
    (folder / "MANIFEST.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def _files(
    world: World,
    languages: Sequence[str],
    words: int,
    rows: Mapping[str, int],
    tasks: Sequence[str],
) -> Iterator[tuple[str, str, dict[str, object]]]:
    """Path, content and description of every file."""
    for language in languages:
        yield _corpus(world, language, words)
        for split, count in rows.items():
            for task, (path, content) in _tasks(world, language, split, count).items():
                if task in tasks:
                    about = {"task": task, "lang": language, "split": split, "sentences": count}
                    yield path, content(), about


def _tasks(
    world: World, language: str, split: str, count: int
) -> dict[str, tuple[str, Callable[[], str]]]:
    """Task to the path of its file of a split, and what makes the content."""

    def tabled(
        task: str, header: tuple[str, ...], rows: Callable[..., Any]
    ) -> tuple[str, Callable[[], str]]:
        path = f"{task}/{language}/{split}.tsv.xz"
        return path, lambda: _tsv(header, rows(language, count, split))

    # As in the real data, the test split of these two has no folder of its own.
    place = f"xquad/{language}" if split == "test" else f"xquad/{language}/{split}"
    files = {
        "ud": (
            f"ud/{language}_toy/{split}.conllu.xz",
            lambda: conllu(world.treebank(language, count, split)),
        ),
        "ner": (
            f"ner/{language}/{split}.txt.xz",
            lambda: _columns(world.ner(language, count, split)),
        ),
        "sib200": tabled("sib200", ("index_id", "category", "text"), world.topics),
        "nli": tabled("nli", ("premise", "hypothesis", "label"), world.nli),
        "paraphrase": tabled("paraphrase", ("sentence1", "sentence2", "label"), world.paraphrases),
        "xquad": (f"{place}.json.xz", lambda: _squad(world.questions(language, count, split))),
    }
    if split == "test":
        path = f"tatoeba/{language}.tsv.xz"
        files["tatoeba"] = path, lambda: _tsv(None, world.parallel(language, count))
    return files


def _corpus(world: World, language: str, words: int) -> tuple[str, str, dict[str, object]]:
    """Training sentences, repeats left out, until there are enough words."""
    lines: dict[str, None] = {}
    tokens = start = 0
    while tokens < words:
        for line in world.sentences(language, 2048, start=start):
            if tokens < words and line not in lines:
                lines[line] = None
                tokens += line.count(" ") + 1
        start += 2048
    about = {
        "task": "corpora",
        "lang": language,
        "sentences": len(lines),
        "tokens": tokens,
    }
    return f"corpora/{language}.txt.xz", "".join(f"{line}\n" for line in lines), about


def conllu(trees: Iterable[list[Token]]) -> str:
    """Trees as CoNLL-U."""
    blocks = []
    for number, tree in enumerate(trees, start=1):
        forms = [token.form for token in tree]
        lines = [f"# sent_id = {number}", f"# text = {' '.join(forms[:-1])}{forms[-1]}"]
        for t in tree:
            space = "SpaceAfter=No" if t.id == len(tree) - 1 else "_"
            lines.append(
                f"{t.id}\t{t.form}\t{t.lemma}\t{t.upos}\t_\t{t.feats}\t{t.head}\t{t.deprel}\t_\t{space}"
            )
        blocks.append("\n".join(lines) + "\n\n")
    return "".join(blocks)


def _columns(sentences: Iterable[list[tuple[str, str]]]) -> str:
    return "".join(
        "".join(f"{word} {tag}\n" for word, tag in sentence) + "\n" for sentence in sentences
    )


def _tsv(header: Sequence[str] | None, rows: Iterable[Sequence[object]]) -> str:
    table = [header, *rows] if header else rows
    return "".join("\t".join(map(str, row)) + "\n" for row in table)


def _squad(questions: Iterable[Question]) -> str:
    """Questions as SQuAD 1.1, one paragraph each."""
    paragraphs = []
    for q in questions:
        answers = [{"text": q.answer, "answer_start": q.start}]
        paragraphs.append(
            {
                "context": q.context,
                "qas": [{"id": q.id, "question": q.question, "answers": answers}],
            }
        )
    data = {"data": [{"title": "toyworld", "paragraphs": paragraphs}], "version": "1.1"}
    return json.dumps(data, ensure_ascii=False)
