"""Does the judge cost more than the model it judges?

Scoring (sub-words, batches, forward, decoding, metric) against bare forward passes over the same batches; the reading of
a treebank of 10,000 sentences, parsed and from the cache; and how often a part-of-speech run over 20 languages opens its
model.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from record import Recorder, parser, race
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast
from transformers.utils import logging

from xeval.data.folder import DataSet
from xeval.data.source import LocalFolder
from xeval.evaluate import score as evaluate_score
from xeval.finetune.checkpoint import (
    FineTunedModel,
    TaskModel,
    build,
    read_finetuned,
    write_finetuned,
)
from xeval.progress import no_progress
from xeval.protocol import Protocol
from xeval.task_templates.batches import by_length
from xeval.task_templates.task import FineTunedTask
from xeval.task_templates.treebank import UPOS, read_treebank
from xeval.tasks import task_of

TOKENS = 4096
LANGUAGES = 20


def treebank(sentences: int, draw: random.Random) -> str:
    """CoNLL-U of invented words, of the lengths of real sentences."""
    words = ["".join(draw.choices("abcdefghijklmnop", k=draw.randint(2, 9))) for _ in range(8000)]
    blocks = []
    for _ in range(sentences):
        length = max(1, min(80, round(draw.lognormvariate(2.7, 0.6))))
        lines = [
            f"{i}\t{draw.choice(words)}\t_\t{draw.choice(UPOS)}\t_\tCase=Nom|Number=Sing\t{i - 1}\tdep\t_\t_"
            for i in range(1, length + 1)
        ]
        blocks.append("\n".join(lines) + "\n\n")
    return "".join(blocks)


def tuned_model(folder: Path, text: list[str], layers: int, width: int) -> Path:
    """An untrained model with an untrained tagging head."""
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    made.train_from_iterator(
        text, trainers.WordPieceTrainer(vocab_size=8000, special_tokens=specials)
    )
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, model_max_length=512, unk_token="[UNK]", pad_token="[PAD]",
        cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]",
    )  # fmt: skip
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=width, num_hidden_layers=layers,
        num_attention_heads=width // 64, intermediate_size=4 * width,
    )  # fmt: skip
    BertForMaskedLM(config).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    task, protocol = pos(), Protocol()
    model, pieces = build(str(folder / "base"), task, UPOS, protocol)
    write_finetuned(
        folder / "tuned",
        FineTunedModel(
            model=model, pieces=pieces, task="pos", labels=UPOS, protocol=protocol, source="ud/aa_made",
            source_language="aa", seed=0, base="base", base_digest="0" * 16, notes={},
        ),
    )  # fmt: skip
    return folder / "tuned"


def pos() -> FineTunedTask:
    task = task_of("pos")
    assert isinstance(task, FineTunedTask)
    return task


def contenders(tuned: FineTunedModel, examples: list[Any]) -> dict[str, Callable[[], object]]:
    task = pos()
    encoded, _ = task.encode(tuned.pieces, examples, tuned.labels)
    bucketed = [
        task.collate([encoded[i] for i in batch], tuned.pieces.pad_id)
        for batch in by_length(encoded, tokens=TOKENS)
    ]
    sentences = max(len(batch["word_size"]) for batch in bucketed[:1])
    in_order = [
        task.collate(encoded[i : i + sentences], tuned.pieces.pad_id)
        for i in range(0, len(encoded), sentences)
    ]

    def bare(batches: list[dict[str, torch.Tensor]]) -> None:
        with torch.inference_mode():
            for batch in batches:
                TaskModel.forward(tuned.model, **batch)

    there = DataSet(name="ud/aa_made", language="aa", splits=("test",))

    def scoring() -> object:
        # A tokenizer that has met no word yet, as at the first language.
        tuned.pieces._known.clear()
        return evaluate_score.score_examples(tuned, task, examples, there, no_progress)

    return {
        "bare forward": lambda: bare(bucketed),
        "scoring": scoring,
        "bare forward, file order": lambda: bare(in_order),
    }


def main() -> None:
    arguments = parser(__doc__ or "").parse_args()
    quick = arguments.quick
    logging.disable_progress_bar()
    recorder = Recorder("xeval_scoring", arguments)
    draw = random.Random(0)
    torch.manual_seed(0)
    sentences = 200 if quick else 1000
    layers, width = (4, 256) if quick else (6, 384)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        big = folder / "big.conllu"
        big.write_text(treebank(10_000, draw))
        cache = folder / "cache"
        parsed = race(
            {"parsing": lambda: read_treebank(big, cache=Path(tempfile.mkdtemp(dir=folder)))},
            repeats=1 if quick else 3, warmup=0,
        )  # fmt: skip
        read_treebank(big, cache=cache)
        kept = race({"from the cache": lambda: read_treebank(big, cache=cache)}, repeats=5)
        recorder.add(
            "reading a treebank", {**parsed, **kept}, unit="s", bar={"from the cache": 1.0},
            shape={"sentences": 10_000},
        )  # fmt: skip

        sample = read_treebank(big, cache=cache)
        tuned_folder = tuned_model(
            folder, [" ".join(s.words) for s in sample[:3000]], layers, width
        )
        test = folder / "data/ud/aa_made/test.conllu"
        test.parent.mkdir(parents=True)
        test.write_text(treebank(sentences, draw))
        examples = pos().read(test, cache)
        times = race(contenders(read_finetuned(tuned_folder), examples), repeats=3 if quick else 5)
        recorder.add(
            "scoring a test set", times, unit="s", floor="bare forward", bar={"scoring": 1 / 0.9},
            shape={"sentences": sentences, "layers": layers, "width": width, "tokens a batch": TOKENS},
        )  # fmt: skip

        for i in range(LANGUAGES):
            path = folder / f"data/ud/{chr(97 + i)}x_made/test.conllu"
            path.parent.mkdir(parents=True)
            path.write_text(treebank(20, draw))
        opened: list[Path] = []

        def counted(at: Path) -> FineTunedModel:
            opened.append(at)
            return read_finetuned(at)

        evaluate_score.read_finetuned = counted  # type: ignore[assignment]  # counts the openings
        evaluate_score.score(
            tuned_folder, folder / "results.jsonl", source=LocalFolder(folder / "data", cache)
        )
        recorder.add(
            "models opened", {"a run": [float(len(opened))]}, unit="", bar={"a run": 1.0},
            shape={"languages": LANGUAGES + 1},
        )  # fmt: skip
    recorder.close()


if __name__ == "__main__":
    main()
