"""The world on disk, in the layout of a folder of real multilingual data."""

from __future__ import annotations

import hashlib
import json
import lzma
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from toyworld_tasks import Question
from toyworld_tongue import Token

if TYPE_CHECKING:
    from toyworld import World

ROWS = {"train": 1000, "dev": 200, "test": 400}


def write_world(
    folder: Path | str, *, seed: int = 0, languages: Sequence[str] = (), words: int = 200_000,
    rows: dict[str, int] | None = None, world: World | None = None,
) -> Path:  # fmt: skip
    """Write corpora of about `words` words and every task of some languages.

    Args:
        folder: to be made; it must not exist. It appears under its name only when it is complete.
        seed: of the world, unless `world` is given.
        languages: codes; all of the world's when empty.
        words: of each language's corpus, counted with white space between them.
        rows: sentences or questions per split of every task.
        world: one already made.

    Returns:
        The folder.

    Raises:
        ValueError: the folder exists, or a language is not of this world.
    """
    from toyworld import World  # the world knows this function, so that one import serves all

    folder = Path(folder)
    if folder.exists():
        raise ValueError(f"{folder} exists already: name a new folder or remove it first")
    world = world or World(seed)
    languages = languages or world.languages
    for language in languages:
        world.tongue(language)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    entries = []
    for path, content, about in _files(world, languages, words, rows or ROWS):
        raw = content.encode()
        packed = lzma.compress(raw, preset=1)
        target = partial / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(packed)
        entries.append(
            {
                "path": path,
                "bytes": len(packed),
                "sha256": hashlib.sha256(packed).hexdigest(),
                "raw_bytes": len(raw),
                **about,
            }
        )
    manifest = {
        "format": 1,
        "tree": "toyworld",
        "seed": world.seed,
        "ner_common_labels": {"PER": "PER", "LOC": "LOC", "ORG": "ORG"},
        "entries": entries,
    }
    (partial / "MANIFEST.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    partial.replace(folder)
    return folder


def _files(
    world: World, languages: Sequence[str], words: int, rows: dict[str, int]
) -> Iterator[tuple[str, str, dict[str, object]]]:
    """Path, content and description of every file."""
    for language in languages:
        yield _corpus(world, language, words)
        for split, count in rows.items():
            about = {"lang": language, "split": split, "sentences": count}
            for path, content in (
                (
                    f"ud/{language}_toy/{split}.conllu.xz",
                    conllu(world.treebank(language, count, split)),
                ),
                (f"ner/{language}/{split}.txt.xz", _columns(world.ner(language, count, split))),
                (
                    f"sib200/{language}/{split}.tsv.xz",
                    _tsv(("index_id", "category", "text"), world.topics(language, count, split)),
                ),
                (
                    f"nli/{language}/{split}.tsv.xz",
                    _tsv(("premise", "hypothesis", "label"), world.nli(language, count, split)),
                ),
                (
                    f"paraphrase/{language}/{split}.tsv.xz",
                    _tsv(
                        ("sentence1", "sentence2", "label"),
                        world.paraphrases(language, count, split),
                    ),
                ),
                (
                    f"xquad/{language}/{split}.json.xz",
                    _squad(world.questions(language, count, split)),
                ),
            ):
                yield path, content, {"task": path.split("/")[0], **about}
        count = rows.get("test", 0)
        about = {"task": "tatoeba", "lang": language, "split": "test", "sentences": count}
        yield f"tatoeba/{language}.tsv.xz", _tsv(None, world.parallel(language, count)), about
        about = {"task": "xquad", "lang": language, "split": "test", "sentences": count}
        yield f"xquad/{language}.json.xz", _squad(world.questions(language, count, "test")), about


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
