"""Bitext of plain encoders and bits per byte: what asks a model as it is."""

import hashlib
import json
import math
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from xeval.data.source import LocalFolder
from xeval.encoder import open_encoder, open_tokenizer
from xeval.errors import XevalError
from xeval.evaluate.runner import run
from xeval.evaluate.score import score
from xeval.protocol import Protocol
from xeval.sentences.vectors import MeanStates
from xeval.statistics.results_file import read_results
from xeval.task_templates.masked import open_masked
from xeval.task_templates.word_tokenization import Pieces
from xeval.tasks import task_of
from xeval.tasks.bitext import near
from xeval.tasks.bpb import evenly, mask_passes, split_blocks

Models = Callable[[str], Path]
LINES = [
    "das haus sieht ein buch .",
    "das  hund\tfindet ein 日本 berg .",
    "das kleine katze liebt ein stein . " * 6,
    "ﬁn e\u0301te x",
]


@pytest.mark.parametrize("csls", [0, 3])
def test_translations_that_are_the_text_itself_are_all_found(
    csls: int, models: Models, more_data: Path, tmp_path: Path
) -> None:
    results = score(
        models("bert"), tmp_path / "r.jsonl", source=LocalFolder(more_data), task="bitext",
        protocol=Protocol(csls=csls, layer=0),
    )  # fmt: skip

    assert {r.metric: r.value for r in results} == {
        "bitext_to_source": 100.0,
        "bitext_from_source": 100.0,
    }
    assert {r.source_language for r in results} == {"yy"}


def test_a_text_of_unknown_words_alone_is_named(models: Models) -> None:
    task = task_of("bpb")

    with pytest.raises(XevalError, match=r"that begins '日本 日本' is unknown .* leave its language out"):  # fmt: skip
        task.measure(
            task.open(str(models("bert")), Protocol()), ["日本 日本"], Protocol(), lambda *_: None
        )


def test_more_neighbours_than_sentences_are_told(
    models: Models, more_data: Path, tmp_path: Path
) -> None:
    told: list[str] = []
    results = score(
        models("bert"), tmp_path / "r.jsonl", source=LocalFolder(more_data), task="bitext",
        protocol=Protocol(csls=1000, layer=0), watch=lambda _done, _total, what: told.append(what),
    )  # fmt: skip

    note = f"yy: csls 1000 is more neighbours than the {results[0].n} sentences there are; all of them were taken"
    assert note in told


def test_csls_is_its_formula() -> None:
    draw = np.random.default_rng(0)
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in draw.normal(size=(2, 7, 4)))
    found = near(a, b, 2)

    for i in range(7):
        for j in range(7):
            r_a = sorted((float(a[i] @ y) for y in b), reverse=True)[:2]
            r_b = sorted((float(x @ b[j]) for x in a), reverse=True)[:2]
            assert found[i, j] == pytest.approx(2 * a[i] @ b[j] - sum(r_a) / 2 - sum(r_b) / 2)


def test_states_do_not_depend_on_batches_and_leave_special_tokens_out(models: Models) -> None:
    encoder = open_encoder(str(models("bert"))).eval()
    pieces = Pieces(open_tokenizer(str(models("bert"))), 64)
    texts = ["das haus", "ein " * 20, "hund ."]
    prompts = {"text": None, "query": None, "document": None}

    vectors = MeanStates(str(models("bert")), 64, -1, prompts)
    together, _ = vectors.encode(texts, "text", lambda *_: None, "")
    ids = torch.tensor([pieces.encode_texts(texts[:1])[0][0].rows[0]])
    alone = encoder(input_ids=ids).last_hidden_state[0, 1:-1].mean(dim=0)

    np.testing.assert_allclose(
        together[0], (alone / alone.norm()).detach().numpy(), rtol=1e-4, atol=1e-5
    )


def test_a_layer_that_is_not_there_is_named(
    models: Models, more_data: Path, tmp_path: Path
) -> None:
    with pytest.raises(XevalError, match="layer must lie between -3 and 2"):
        score(
            models("bert"), tmp_path / "r", source=LocalFolder(more_data), task="bitext",
            protocol=Protocol(layer=9),
        )  # fmt: skip


def by_the_book(
    folder: Path, lines: list[str], limit: int, rate: float
) -> tuple[float, int, int, int]:
    """Bits, bytes, words left out and words that stand alone, by the definition, one pass at a time, with no code of the task."""
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForMaskedLM.from_pretrained(folder).eval()
    bits, size, out, alone = 0.0, 0, 0, 0
    for line in lines:
        words = unicodedata.normalize("NFC", line).split()
        # These tokenizers split at spaces, so words can be encoded one by one, with the space before them.
        ids = [
            tokenizer((" " if i else "") + word, add_special_tokens=False)["input_ids"]
            for i, word in enumerate(words)
        ]
        blocks: list[list[int]] = [[]]
        for i in range(len(words)):
            if len(ids[i]) > limit - 2:
                out += 1
                continue
            if blocks[-1] and sum(len(ids[k]) for k in blocks[-1]) + len(ids[i]) > limit - 2:
                blocks.append([])
            blocks[-1].append(i)
        for block in blocks:
            scored = [i for i in block if ids[i] and tokenizer.unk_token_id not in ids[i]]
            out += len(block) - len(scored)
            alone += len(block) == len(scored) == 1
            text = " ".join(words[i] for i in block)
            order = sorted(
                range(len(scored)),
                key=lambda j: hashlib.sha256(f"{text}\n{j}".encode()).digest(),
            )
            for group in range(math.ceil(1 / rate)):
                hidden = {
                    scored[j] for rank, j in enumerate(order) if rank % math.ceil(1 / rate) == group
                }
                if not hidden:
                    continue
                row, gold = [2], {}
                for i in block:
                    for piece in ids[i]:
                        if i in hidden:
                            gold[len(row)] = piece
                        row.append(4 if i in hidden else piece)
                with torch.no_grad():
                    logits = model(input_ids=torch.tensor([[*row, 3]])).logits[0].double()
                for place, piece in gold.items():
                    bits -= float(logits[place].log_softmax(dim=-1)[piece]) / math.log(2)
            size += sum(len(words[i].encode()) for i in scored)
    return bits, size, out, alone


def sharpened(folder: Path, out: Path) -> Path:
    """A copy whose predictions depend on the context, as those of an untrained model hardly do."""
    from transformers import AutoModelForMaskedLM

    model = AutoModelForMaskedLM.from_pretrained(folder)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data *= 12
    model.save_pretrained(out)
    open_tokenizer(str(folder)).save_pretrained(out)
    return out


@pytest.mark.parametrize("kind", ["bert", "modern"])
@pytest.mark.parametrize("limit", [12, 64])
def test_bits_per_byte_are_those_of_the_written_definition(
    kind: str, limit: int, models: Models, tmp_path: Path
) -> None:
    (tmp_path / "corpora").mkdir()
    (tmp_path / "corpora" / "xx.txt").write_text("\n".join(LINES), encoding="utf-8")
    model = sharpened(models(kind), tmp_path / "sharp")
    told: list[str] = []

    (result,) = score(
        model, tmp_path / "r.jsonl", source=LocalFolder(tmp_path), task="bpb",
        protocol=Protocol(max_length=limit), watch=lambda d, t, what: told.append(what) if not t else None,
    )  # fmt: skip

    bits, size, out, alone = by_the_book(model, LINES, limit, 0.15)
    assert result.value == pytest.approx(bits / size, rel=1e-4)
    rows = read_results(tmp_path / "r.jsonl")[0].load_items().rows.sum(axis=0)
    assert rows[1] == size
    words = sum(len(line.split()) for line in LINES)
    left_out = f"xx: {out} of {words} words were left out: unknown, without piece, joined by a piece, or too long"
    from_nothing = f"xx: {alone} of {words - out} words had no other beside them and were predicted from nothing"
    expected = [left_out] * (out > 0) + [from_nothing] * (alone > 0)
    assert [note.partition(", as whole")[0] for note in told] == expected


@pytest.mark.parametrize("kind", ["bert", "modern"])
def test_every_scored_word_is_hidden_in_exactly_one_pass_with_all_its_pieces(
    kind: str, models: Models
) -> None:
    pieces = Pieces(open_tokenizer(str(models(kind))), 16)

    for block in split_blocks(LINES, pieces):
        rows = list(mask_passes(block, pieces, 4, 0.15))
        hidden = sorted(gold for one in rows for gold in one.labels)
        place, expected = len(pieces.before), []
        for ids, use in zip(block.pieces, block.scored, strict=True):
            expected += [(place + k, piece) for k, piece in enumerate(ids) if use]
            place += len(ids)
        assert hidden == sorted(expected)
        assert all(len(one.rows[0]) <= 16 for one in rows)
        assert all(one.rows[0][place] == 4 for one in rows for place, _ in one.labels)


def test_a_uniform_model_costs_the_logarithm_of_its_vocabulary(
    models: Models, tmp_path: Path
) -> None:
    from transformers import AutoModelForMaskedLM

    tokenizer = open_tokenizer(str(models("bert")))
    model = AutoModelForMaskedLM.from_pretrained(models("bert"))
    for parameter in model.parameters():
        parameter.data.zero_()
    model.save_pretrained(tmp_path / "flat")
    tokenizer.save_pretrained(tmp_path / "flat")
    line = "das haus sieht ein buch ."
    (tmp_path / "corpora").mkdir()
    (tmp_path / "corpora" / "xx.txt").write_text(line)

    (result,) = run(
        [tmp_path / "flat"], tmp_path / "r.jsonl", tasks=["bpb"], source=LocalFolder(tmp_path)
    )

    pieces = len(tokenizer(line, add_special_tokens=False)["input_ids"])
    expected = pieces * math.log2(len(tokenizer)) / len(line.replace(" ", ""))
    assert result.value == pytest.approx(expected, rel=1e-6)


def test_the_output_layer_sees_masked_positions_alone(models: Models) -> None:
    masked, _ = open_masked(str(models("bert")))
    seen: list[tuple[int, ...]] = []
    masked.model.get_output_embeddings().register_forward_hook(
        lambda module, inputs, output: seen.append(tuple(output.shape))
    )
    batch = {
        "input_ids": torch.tensor([[2, 4, 9, 3], [2, 4, 4, 3]]),
        "attention_mask": torch.ones(2, 4, dtype=torch.long),
    }

    masked.bits(batch, [[(1, 7)], [(1, 7), (2, 8)]])

    assert [shape[0] for shape in seen] == [3]


def test_a_model_without_a_masked_lm_head_and_a_tokenizer_without_mask_are_named(
    models: Models, more_data: Path, tmp_path: Path
) -> None:
    open_encoder(str(models("bert"))).save_pretrained(tmp_path / "bare")
    tokenizer = open_tokenizer(str(models("bert")))
    tokenizer.save_pretrained(tmp_path / "bare")
    source = LocalFolder(more_data)

    with pytest.raises(XevalError, match="has no trained masked-LM head"):
        score(tmp_path / "bare", tmp_path / "r", source=source, task="bpb")
    tokenizer.mask_token = None
    tokenizer.save_pretrained(tmp_path / "bare")
    with pytest.raises(XevalError, match="the tokenizer has no mask token"):
        score(tmp_path / "bare", tmp_path / "r", source=source, task="bpb")


def test_lines_are_spread_over_the_text() -> None:
    assert evenly([str(i) for i in range(10)], 3) == ["0", "3", "6"]
    assert evenly(["a", "b"], 0) == evenly(["a", "b"], 5) == ["a", "b"]


def test_the_tasks_that_need_no_tuning_are_these() -> None:
    assert {task_of(name).metrics for name in ("bitext", "bpb")} == {
        ("bitext_to_source", "bitext_from_source"),
        ("bits_per_byte",),
    }


def test_two_tuned_folders_of_one_name_and_base_are_two_models(
    models: Models, text: list[str], tmp_path: Path
) -> None:
    record = {"format": 1, "task": "pos", "base": "bert", "base_digest": "of both"}
    for place, factor in (("first", 1.0), ("second", -9.0)):
        folder = tmp_path / place / "tuned"
        shutil.copytree(models("bert"), folder)
        encoder: Any = open_encoder(str(folder))
        encoder.encoder.layer[0].output.dense.weight.data *= factor
        encoder.save_pretrained(folder)
        (folder / "xeval.json").write_text(json.dumps(record))
    pairs = [f"{text[i]}\t{text[i + 1]}\t{i % 7}\n" for i in range(30)]
    (tmp_path / "data/sts").mkdir(parents=True)
    (tmp_path / "data/sts/xx.tsv").write_text("".join(pairs))
    source, both = LocalFolder(tmp_path / "data"), tmp_path / "both.jsonl"

    figures = [
        [
            figure.value
            for figure in score(tmp_path / place / "tuned", file, task="sts", source=source)
        ]
        for place in ("first", "second")
        for file in (tmp_path / f"{place}.jsonl", both)
    ]

    assert figures[0] == figures[1] != figures[2] == figures[3]
    assert [r.model for r in read_results(both)] == ["tuned", "tuned"]


def test_words_that_are_predicted_from_nothing_are_told(models: Models) -> None:
    task = task_of("bpb")
    opened = task.open(str(models("modern")), Protocol())

    def notes(lines: list[str]) -> list[str]:
        return task.measure(opened, lines, Protocol(), lambda *_: None)[1]

    assert notes(["das haus sieht ein buch .", "ein hund"]) == []
    (note,) = notes(["我喜欢这本书。", "他住在北京。 好。", "das haus"])
    assert note.startswith("1 of 5 words had no other beside them and were predicted from nothing")
