import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toyworld import World
from transformers.utils import logging

from teacherzoo.encoders.teachers import load_teacher
from teacherzoo.errors import CorpusError, DivergenceError, RecordError, TeacherError
from teacherzoo.pretrain import trainer as pretraining
from teacherzoo.pretrain.config import ContinuedPretraining, PretrainingConfig, TokenizerFamily
from teacherzoo.pretrain.continued import continue_pretraining
from teacherzoo.pretrain.pretrain import pretrain_teacher
from teacherzoo.pretrain.text import pack, train_tokenizer
from teacherzoo.progress import no_progress
from teacherzoo.text.corpora import Corpus

TINY = PretrainingConfig(
    vocabulary=300, layers=1, width=16, heads=2, steps=12, batch=4, length=16, checkpoint_every=4
)


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> list[Corpus]:
    folder = tmp_path_factory.mktemp("text")
    world = World(seed=0)
    found = []
    for language in world.languages[:2]:
        file = folder / f"{language}.txt"
        file.write_text("\n".join(world.sentences(language, 300)) + "\n", encoding="utf-8")
        found.append(Corpus(language, file, held_out_share=0.1))
    return found


class InterruptionError(Exception):
    pass


def test_neither_pretraining_nor_opening_draws_bars_of_transformers(
    corpora: list[Corpus],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A command that was imported by this process has put them off.
    monkeypatch.setattr(
        sys.modules["huggingface_hub.utils.tqdm"], "HF_HUB_DISABLE_PROGRESS_BARS", None
    )
    monkeypatch.setattr(logging, "_tqdm_active", True)

    pretrain_teacher(corpora, tmp_path / "teacher", config=TINY)
    load_teacher(tmp_path / "teacher")
    load_teacher(tmp_path / "teacher", headless=True)

    assert "%|" not in capfd.readouterr().err
    assert logging.is_progress_bar_enabled()


def test_an_interrupted_pretraining_ends_where_an_undisturbed_one_does(
    corpora: list[Corpus], tmp_path: Path
) -> None:
    def stop_at_seven(done: int, total: int, what: str) -> None:
        if done == 7 and total == 12:
            raise InterruptionError

    # BERT has dropout, whose random state must come back as well.
    config = replace(TINY, architecture="bert", family="bpe")
    undisturbed = pretrain_teacher(corpora, tmp_path / "one", config=config)
    with pytest.raises(InterruptionError):
        pretrain_teacher(corpora, tmp_path / "two", config=config, watch=stop_at_seven)
    assert not (tmp_path / "two").exists()
    steps = []

    resumed = pretrain_teacher(
        corpora, tmp_path / "two", config=config, watch=lambda *progress: steps.append(progress)
    )

    assert [done for done, total, _ in steps if total == 12] == list(range(5, 13))
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (resumed.folder / name).read_bytes() == (undisturbed.folder / name).read_bytes()
    assert resumed.loss == undisturbed.loss
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


@pytest.mark.parametrize("family", ["wordpiece", "unigram", "bpe"])
def test_each_family_fills_masks_with_plain_transformers(
    corpora: list[Corpus], tmp_path: Path, family: str
) -> None:
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    teacher = pretrain_teacher(
        corpora, tmp_path / "t", config=replace(TINY, family=family, steps=2)
    )

    tokenizer = AutoTokenizer.from_pretrained(teacher.folder)
    model = AutoModelForMaskedLM.from_pretrained(teacher.folder)
    text = next(iter(corpora[0].documents())).text
    batch = tokenizer(text, text, return_tensors="pt")
    assert model(**batch).logits.shape[-1] == len(tokenizer)
    assert tokenizer.mask_token_id is not None
    assert "".join(
        tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True).split()
    ) == ("".join(text.split()))
    assert set(teacher.loss) == {corpus.language for corpus in corpora}


@pytest.mark.parametrize(
    "architecture",
    [
        "modernbert",
        "bert",
        "roberta",
        "xlm-roberta",
        "distilbert",
        "albert",
        "electra",
        "deberta-v2",
    ],
)
def test_each_architecture_has_the_shape_asked_for(
    corpora: list[Corpus], tmp_path: Path, architecture: str
) -> None:
    from transformers import AutoModelForMaskedLM

    config = replace(TINY, architecture=architecture, steps=1, layers=2)

    teacher = pretrain_teacher(corpora, tmp_path / "t", config=config)

    config = AutoModelForMaskedLM.from_pretrained(teacher.folder).config
    assert config.model_type == architecture
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (2, 16, 2)


@pytest.mark.parametrize("family", ["bpe", "wordpiece"])
def test_the_same_call_gives_the_same_bytes(
    family: TokenizerFamily, corpora: list[Corpus], tmp_path: Path
) -> None:
    config = replace(TINY, family=family, steps=3)

    first, second = (pretrain_teacher(corpora, tmp_path / name, config=config) for name in "ab")

    for name in ("tokenizer.json", "model.safetensors"):
        assert (first.folder / name).read_bytes() == (second.folder / name).read_bytes()


def test_letters_are_ordinary_pieces(corpora: list[Corpus], tmp_path: Path) -> None:
    tokenizer = train_tokenizer(corpora, TINY, tmp_path / "tokenizer.json", watch=no_progress)

    added = set(tokenizer.get_added_vocab())
    assert added == {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}


def test_held_out_documents_are_in_no_training_block(corpora: list[Corpus], tmp_path: Path) -> None:
    tokenizer = train_tokenizer(corpora, TINY, tmp_path / "tokenizer.json", watch=no_progress)
    corpus = corpora[0]
    held_out = {document.text for document in replace(corpus, part="held_out").documents()}

    blocks = pack([corpus], tokenizer, TINY.length, part="train")[corpus.language]

    packed = " ".join(tokenizer.decode(blocks[:, 1:].ravel()).split())
    sentences = {" ".join(part.split()) for part in packed.split(tokenizer.sep_token)}
    decoded = {
        " ".join(tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids).split())
        for text in held_out
    }
    assert held_out
    assert not sentences & decoded


@pytest.mark.parametrize(
    ("limit", "together"),
    [
        ("_TOGETHER", 1),
        ("_TOGETHER", 3),
        ("_TOGETHER", 1000),
        ("_CHARACTERS", 1),
        ("_CHARACTERS", 99),
    ],
)
def test_blocks_are_the_same_however_many_documents_are_read_at_a_time(
    limit: str,
    together: int,
    corpora: list[Corpus],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(f"teacherzoo.pretrain.text.{limit}", together)
    tokenizer = train_tokenizer(corpora, TINY, tmp_path / "tokenizer.json", watch=no_progress)
    stream = []
    for document in replace(corpora[0], part="train").documents():
        stream += [*tokenizer(document.text, add_special_tokens=False).input_ids, tokenizer.sep_token_id]  # fmt: skip
    inside = TINY.length - 1
    rows = [stream[start : start + inside] for start in range(0, len(stream) - inside + 1, inside)]

    blocks = pack([corpora[0]], tokenizer, TINY.length, part="train")[corpora[0].language]

    assert blocks.dtype == np.int32
    assert blocks.tolist() == [[tokenizer.cls_token_id, *row] for row in rows]


def test_a_language_is_drawn_by_its_size_to_the_exponent() -> None:
    from teacherzoo.pretrain.masks import block_order

    config = replace(TINY, steps=2000, sampling_exponent=0.5)

    order = block_order([90, 10], config, count=2000 * config.batch)

    share = float(np.mean(order[:, 0] == 1))
    assert share == pytest.approx(0.25, abs=0.02)  # sqrt(10) / (sqrt(10) + sqrt(90))
    rows = order[order[:, 0] == 0][:90, 1]
    assert sorted(rows.tolist()) == list(range(90))


@pytest.mark.parametrize("pays", [False, True])
def test_where_has_bfloat16_the_teacher_is_trained_in_it(
    corpora: list[Corpus], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pays: bool
) -> None:
    kinds = set()
    masked_logits = pretraining.masked_logits

    def noting(model: torch.nn.Module, **batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits, gold = masked_logits(model, **batch)
        kinds.update({logits.dtype} if model.training else ())
        return logits, gold

    monkeypatch.setattr(pretraining, "masked_logits", noting)
    monkeypatch.setattr(pretraining, "has_bfloat16", lambda: pays)

    pretrain_teacher(corpora, tmp_path / "t", config=replace(TINY, steps=2))

    assert kinds == {torch.bfloat16 if pays else torch.float32}


def test_what_stands_there_is_never_overwritten(corpora: list[Corpus], tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()

    with pytest.raises(RecordError, match="exists already; remove it"):
        pretrain_teacher(corpora, tmp_path / "t", config=TINY)


def test_leftovers_of_another_plan_are_refused(corpora: list[Corpus], tmp_path: Path) -> None:
    def stop(done: int, total: int, what: str) -> None:
        if what.startswith("pretraining"):
            raise InterruptionError

    with pytest.raises(InterruptionError):
        pretrain_teacher(corpora, tmp_path / "t", config=TINY, watch=stop)

    with pytest.raises(RecordError, match="left from a run with other arguments"):
        pretrain_teacher(corpora, tmp_path / "t", config=replace(TINY, seed=1))


def test_a_language_given_twice_is_refused(corpora: list[Corpus], tmp_path: Path) -> None:
    twice = [*corpora, replace(corpora[1], language=corpora[0].language)]

    with pytest.raises(CorpusError, match=f"{corpora[0].language}: given twice"):
        pretrain_teacher(twice, tmp_path / "t", config=TINY)
    with pytest.raises(CorpusError, match=f"{corpora[0].language}: given twice"):
        continue_pretraining(tmp_path / "nobody", twice, tmp_path / "t")


def test_text_for_less_than_one_block_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.txt"
    file.write_text("two words\n", encoding="utf-8")

    with pytest.raises(TeacherError, match="x: the text does not fill one block"):
        pretrain_teacher([Corpus("x", file, held_out_share=0)], tmp_path / "t", config=TINY)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"family": "sentencepiece"}, "family must be one of wordpiece, unigram, bpe"),
        ({"architecture": "gpt2"}, "architecture must be one of modernbert"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"seed": -1}, r"seed must be in \[0, 2\^32\), got -1"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0, got 0.0"),
        ({"length": 4}, "length must be at least 8"),
        ({"mask_rate": 1.0}, r"mask_rate must be in \(0, 1\)"),
        ({"width": 20, "heads": 3}, "cannot be shared by 3 heads"),
    ],
)
def test_nonsense_is_refused_by_name(change: dict[str, object], message: str) -> None:
    with pytest.raises(RecordError, match=message):
        replace(TINY, **change)  # type: ignore[arg-type]  # nonsense on purpose


def test_a_diverged_loss_is_named_and_stands_in_nobody_s_way(
    corpora: list[Corpus], tmp_path: Path
) -> None:
    config = replace(TINY, learning_rate=1e30, steps=30, checkpoint_every=30)

    with pytest.raises(DivergenceError, match="lower the learning rate"):
        pretrain_teacher(corpora, tmp_path / "t", config=config)

    assert not list(tmp_path.iterdir())
    pretrain_teacher(corpora, tmp_path / "t", config=TINY)
    with pytest.raises(DivergenceError, match="lower the learning rate"):
        continue_pretraining(
            tmp_path / "t",
            corpora,
            tmp_path / "further",
            config=ContinuedPretraining(steps=30, batch=4, length=16, learning_rate=1e30),
        )

    assert [left.name for left in tmp_path.iterdir()] == ["t"]


def test_whole_checkpoints_of_a_diverged_training_stay_until_they_are_removed(
    corpora: list[Corpus], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = pretraining.MaskedLMLoss.forward
    config = replace(TINY, steps=20)

    def diverging(module: pretraining.MaskedLMLoss, **batch: torch.Tensor) -> dict[str, torch.Tensor]:  # fmt: skip
        steps.append(len(steps))
        loss = forward(module, **batch)["loss"]
        return {"loss": loss * (math.nan if len(steps) > 6 else 1)}

    steps: list[int] = []
    monkeypatch.setattr(pretraining.MaskedLMLoss, "forward", diverging)
    with pytest.raises(DivergenceError):
        pretrain_teacher(corpora, tmp_path / "t", config=config)

    with pytest.raises(RecordError, match=r"\.t\.making is left from a run with other arguments; remove it"):  # fmt: skip
        pretrain_teacher(corpora, tmp_path / "t", config=replace(config, learning_rate=1e-4))
