"""How faithfully does a union segment text as each language's own teacher does, and what would add_tokens give?

Trains one tokenizer per language, merges them, and measures on lines held out from training and calibration.
With `--data`, a folder of corpora/<code>.txt.xz; without it, made-up languages.
"""

import argparse
import json
import lzma
from itertools import islice
from pathlib import Path

import numpy as np
from record import Recorder, parser
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from vocabmerge import (
    Vocabulary,
    merge_vocabularies,
    open_tokenizer,
    overlap,
    parse_vocabulary,
)

BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ROBERTA = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
MIXES = {
    "WordPiece": dict.fromkeys(("en", "de", "fi", "tr", "sw"), "wordpiece"),
    "Unigram": dict.fromkeys(("en", "fi", "sw"), "unigram"),
    "byte-level BPE": dict.fromkeys(("en", "tr", "hi"), "bpe-byte"),
    "WordPiece, Unigram, byte-level BPE": {"en": "wordpiece", "fi": "unigram", "tr": "bpe-byte"},
    "WordPiece, Unigram": {"de": "wordpiece", "sw": "unigram"},
    "Unigram, byte-level BPE": {"fi": "unigram", "hi": "bpe-byte"},
    "WordPiece, byte-level BPE": {"en": "wordpiece", "tr": "bpe-byte"},
    "byte-fallback BPE, Unigram": {"sw": "bpe-byte-fallback", "de": "unigram"},
}


def lines_of(code: str, data: Path | None, most: int) -> list[str]:
    if data is not None:
        with lzma.open(data / "corpora" / f"{code}.txt.xz", "rt", encoding="utf-8") as file:
            return [line.rstrip("\n") for line in islice(file, most)]
    language = np.random.default_rng(sum(map(ord, code)))
    letters = list("अआकखगघचजटडतदनपबमरल" if code == "hi" else "aeioukntslrmpdgvhbäöş")
    language.shuffle(letters)

    def words(count: int, low: int, high: int) -> list[str]:
        return [
            "".join(language.choice(letters, language.integers(low, high))) for _ in range(count)
        ]

    stems, endings = words(4000, 2, 7), ["", *words(60, 1, 4)]
    weights = 1 / np.arange(1, len(stems) + 1)
    weights /= weights.sum()
    drawn = language.choice(stems, (most, 9), p=weights)
    suffixes = language.choice(endings, (most, 9))
    return [
        " ".join(stem + end for stem, end in zip(*row, strict=True)) + "."
        for row in zip(drawn.tolist(), suffixes.tolist(), strict=True)
    ]


def train(family: str, code: str, lines: list[str], size: int) -> Vocabulary:
    options = {"vocab_size": size, "show_progress": False}
    if family == "wordpiece":
        made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        made.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(special_tokens=BERT, **options)
    elif family == "unigram":
        made = Tokenizer(models.Unigram())
        made.normalizer = normalizers.Sequence(
            [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
        )
        made.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(special_tokens=ROBERTA, unk_token="<unk>", **options)
    elif family == "bpe-byte":
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        made.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(special_tokens=ROBERTA, initial_alphabet=alphabet, **options)
    else:
        made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
        made.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
        made.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
        special = [*ROBERTA, *(f"<0x{byte:02X}>" for byte in range(256))]
        trainer = trainers.BpeTrainer(special_tokens=special, limit_alphabet=400, **options)
    made.train_from_iterator(lines, trainer)

    parsed = json.loads(made.to_str())
    parsed["added_tokens"] = [
        token for token in parsed["added_tokens"] if not token["content"].startswith("<0x")
    ]
    return parse_vocabulary(parsed, name=f"{family}-{code}")


def exactly(student: Tokenizer, teacher: Vocabulary, rows: np.ndarray, lines: list[str]) -> float:
    """Share of lines that a language tokenizer segments as the teacher does, in ids."""
    before = teacher.segmenter().encode_batch_fast(lines)
    after = student.encode_batch_fast(lines)
    return float(
        np.mean([rows[a.ids].tolist() == b.ids for a, b in zip(before, after, strict=True)])
    )


def main(arguments: argparse.Namespace) -> None:
    recorder = Recorder("vocabmerge_fidelity", arguments)
    size, most = (1500, 6000) if arguments.quick else (8000, 40_000)
    mixes = dict(list(MIXES.items())[::3]) if arguments.quick else MIXES
    texts: dict[str, list[str]] = {}
    vocabularies: dict[tuple[str, str], Vocabulary] = {}
    for mix, spoken in mixes.items():
        for code, family in spoken.items():
            if code not in texts:
                texts[code] = lines_of(code, arguments.data, most)
            if (family, code) not in vocabularies:
                taught = [line for n, line in enumerate(texts[code]) if n % 10]
                vocabularies[family, code] = train(family, code, taught, size)
        teachers = [vocabularies[family, code] for code, family in spoken.items()]
        merged = merge_vocabularies(
            teachers,
            languages={code: f"{family}-{code}" for code, family in spoken.items()},
            corpora={code: texts[code] for code in spoken},
            normalizer="keep",
        )
        added = merged.facts["add_tokens"]
        ratios = {
            code: report.tokens_per_word / report.teacher_tokens_per_word
            for code, report in merged.fidelity.items()
        }
        mean = float(np.mean([report.words_alike for report in merged.fidelity.values()]))
        exact = [
            exactly(
                open_tokenizer(merged.teachers[teacher.name], name=teacher.name),
                teacher,
                merged.maps[teacher.name].one_to_one(),
                texts[code],
            )
            for teacher, code in zip(teachers, spoken, strict=True)
        ]
        shape = {
            "mix": mix,
            "pieces": size,
            "union": merged.facts["size"],
            "cut": merged.facts["cut"],
        }
        recorder.add(
            "words segmented as the teacher does, mean over languages",
            {
                "union": [mean],
                "add_tokens": [
                    float(np.mean([report["words_cut_alike"] for report in added.values()]))
                ],
                "language tokenizers, lines": [min(exact)],
            },
            unit="",
            bar={
                "union": 0.9 if merged.facts["mixed"] else 0.95,
                "language tokenizers, lines": 1.0,
            },
            at_least=True,
            shape=shape,
        )
        recorder.add(
            "the same by language",
            {code: [report.words_alike] for code, report in merged.fidelity.items()},
            unit="",
            shape=shape,
        )
        recorder.add(
            "tokens per word, as a ratio to the teacher's",
            {code: [ratio] for code, ratio in ratios.items()},
            unit="",
            bar=dict.fromkeys(ratios, 1.02),
            shape=shape,
        )
    matches(recorder, vocabularies)
    recorder.close()


def matches(recorder: Recorder, vocabularies: dict[tuple[str, str], Vocabulary]) -> None:
    """Pieces that two families of one language share, by canonical key and by raw string."""
    known = list(vocabularies.items())
    for number, ((family, code), vocabulary) in enumerate(known):
        for (other_family, other_code), rival in known[number + 1 :]:
            if code == other_code and family != other_family:
                shared = overlap([vocabulary, rival])
                recorder.add(
                    "pieces shared by two families of one language",
                    {
                        "raw string": [shared["raw"][0][1]],
                        "canonical key": [shared["shared"][0][1]],
                    },
                    unit="",
                    floor="raw string",
                    bar={"canonical key": 7.0},
                    at_least=True,
                    shape={"language": code, "families": f"{family}/{other_family}"},
                )


if __name__ == "__main__":
    main(parser(__doc__ or "").parse_args())
