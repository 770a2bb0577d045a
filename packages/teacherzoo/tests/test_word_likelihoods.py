"""The likelihood of whole masked words: which words count, what is recorded of them, and how it is read back."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from teacherzoo import (
    Corpus,
    Masking,
    RecordError,
    Signals,
    SignalsError,
    load_teacher,
    record,
)
from teacherzoo.signals import write as signals_write
from teacherzoo.signals.record_text import record_text
from teacherzoo.text.blocks import blocks_of
from teacherzoo.text.corpora import Document, document_digest
from teacherzoo.text.words import in_whole_words, word_spans, words_of_tokens
from vocabmerge import map_of_lists

WORDS = Masking(policy="whole_word", mask_share=1.0, random_share=0.0, rate=0.3)
OPTIONS: dict[str, Any] = {
    "block_length": 32,
    "shard_bytes": 8000,
    "masking": WORDS,
    "word_logprobs": True,
    "temperatures": (2.0,),
}
TEXT = (
    "Die Übergänge der 3 Flüsse (Elbe, Oder, Spree) froren im Jänner zu; niemand kam hinüber. "
    "Nobody ever cross-examined the ferryman's stories, though children loved them."
)


@pytest.fixture(scope="module")
def worded(teacher: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("worded") / "signals"
    record(teacher, [Corpus("en", text)], folder, **OPTIONS)
    return folder


def test_a_words_likelihood_is_the_product_over_its_masked_pieces(
    worded: Path, teacher: Path
) -> None:
    signals, asked = Signals(worded), load_teacher(teacher)
    arrays = signals.shard(0)
    assert arrays.word_logprobs is not None
    in_pieces = 0
    for row in range(40):
        tokens = slice(*arrays.token_starts[row : row + 2])
        spots = slice(*arrays.position_starts[row : row + 2])
        with torch.no_grad():
            ids = torch.from_numpy(arrays.input_ids[tokens])[None]
            logits = asked.model(input_ids=ids).logits[0].double()
        positions, words = arrays.positions[spots], arrays.words[spots]
        for word in np.unique(words):
            places = positions[words == word]
            gold = arrays.labels[spots][words == word]
            for column, temperature in enumerate((1.0, 2.0)):
                logp = (logits[places] / temperature).log_softmax(-1)
                expected = logp[range(len(places)), gold].sum().item()
                recorded = arrays.word_logprobs[spots][words == word][:, column]
                np.testing.assert_allclose(recorded, expected, rtol=0, atol=2e-3)
            in_pieces += len(places) > 1
    assert in_pieces > 3


def test_an_interrupted_recording_of_words_ends_in_the_same_bytes(
    worded: Path,
    teacher: Path,
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = 0
    whole_write = signals_write.write_whole

    def killed(path: Path, content: bytes) -> None:
        nonlocal written
        written += 1
        if written == 2:
            raise KeyboardInterrupt
        whole_write(path, content)

    folder = tmp_path / "again"
    monkeypatch.setattr(signals_write, "write_whole", killed)
    with pytest.raises(KeyboardInterrupt):
        record(teacher, [Corpus("en", text)], folder, **OPTIONS)
    monkeypatch.undo()

    record(teacher, [Corpus("en", text)], folder, **OPTIONS)

    for file in [*sorted(worded.glob("*.parquet")), worded / "signals.json"]:
        assert (folder / file.name).read_bytes() == file.read_bytes()


def test_what_words_cost_is_at_most_four_bytes_each(worded: Path) -> None:
    from teacherzoo.signals.stats import column_sizes

    signals = Signals(worded)
    shards = [signals.shard(number) for number in range(len(signals.manifest.shards))]
    words = sum(
        len({(row, word) for row, word in zip(np.repeat(np.arange(len(s.loss)), np.diff(s.position_starts)), s.words, strict=True)})
        for s in shards
    )  # fmt: skip
    overhead = 300 * len(shards)  # Parquet's pages
    assert column_sizes(signals)["word_logprobs"] <= 4 * words + overhead


def test_words_want_whole_masks_and_a_recording_of_their_own(
    worded: Path, teacher: Path, text: Path
) -> None:
    with pytest.raises(RecordError, match="policy whole_word"):
        record(teacher, [Corpus("en", text)], worded, **OPTIONS | {"masking": Masking()})
    with pytest.raises(SignalsError, match="log-probabilities of words True"):
        record(teacher, [Corpus("en", text)], worded, **OPTIONS | {"word_logprobs": False})


def test_likelihoods_by_the_first_rule_for_whole_words_are_read_and_not_gone_on_with(
    worded: Path, teacher: Path, text: Path, tmp_path: Path
) -> None:
    older = Path(shutil.copytree(worded, tmp_path / "older"))
    manifest = json.loads((older / "signals.json").read_text())
    del manifest["terms"]["whole_word_rule"]
    (older / "signals.json").write_text(json.dumps(manifest))

    np.testing.assert_array_equal(
        Signals(older).shard(0).word_logprobs, Signals(worded).shard(0).word_logprobs
    )
    with pytest.raises(SignalsError, match=r"the rule for words .* None, and now .* is asked for"):
        record(teacher, [Corpus("en", text)], older, **OPTIONS)


def test_masked_pieces_are_spelled_out_as_positions_of_their_own(worded: Path) -> None:
    plain = Signals(worded)
    size = plain.settings.space.size
    ids = [[index] for index in range(size)]
    single = plain.batch(range(40))
    gone = int(np.bincount(single.labels.numpy()).argmax())
    ids[gone] = [size, size + 1, size + 2]
    vocabulary = map_of_lists(ids, student_size=size + 3)

    spelled = Signals(worded, vocabulary=vocabulary, max_lost=1.0, spell_masked=True).batch(
        range(40)
    )

    hit = single.labels == gone
    assert len(spelled.labels) == len(single.labels) + 2 * int(hit.sum())
    new = spelled.labels >= size
    assert spelled.labels[new].tolist() == [size, size + 1, size + 2] * int(hit.sum())
    np.testing.assert_array_equal(spelled.labels[~new], single.labels[~hit])
    mask = plain.settings.space.mask
    assert (spelled.input_ids[spelled.rows, spelled.positions] == mask).all()
    np.testing.assert_array_equal(
        spelled.token_ids[spelled.rows, spelled.positions], spelled.labels
    )
    assert (spelled.topk_ids[new] == -1).all()
    kept = torch.where(single.topk_ids == gone, -1, single.topk_ids)
    np.testing.assert_array_equal(spelled.topk_ids[~new], kept[~hit])
    lengths = spelled.attention_mask.sum(1) - single.attention_mask.sum(1)
    # Outside of masks the piece was spelled with three ids before, too.
    tokens = (single.token_ids == gone).sum(1)
    np.testing.assert_array_equal(lengths, 2 * tokens)


def test_without_the_column_nothing_is_known_of_words(recording: Path) -> None:
    assert Signals(recording).shard(0).word_logprobs is None


def wordpiece() -> Tokenizer:
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    made.train_from_iterator(
        [TEXT] * 4,
        trainers.WordPieceTrainer(vocab_size=90, special_tokens=["[UNK]"], show_progress=False),
    )
    return made


def unigram() -> Tokenizer:
    made = Tokenizer(models.Unigram())
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.train_from_iterator(
        [TEXT] * 4,
        trainers.UnigramTrainer(
            vocab_size=90, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False
        ),
    )
    return made


def byte_level() -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.train_from_iterator(
        [TEXT] * 4,
        trainers.BpeTrainer(
            vocab_size=300,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return made


TOKENIZERS = [wordpiece(), unigram(), byte_level()]
letters = st.sampled_from([*"aeinrstüDieFl", *" .,;(-'", "🜁", "子"])


@given(st.text(letters, max_size=60) | st.permutations(TEXT.split()).map(" ".join))
def test_whole_words_are_the_same_stretch_of_text_for_every_tokenizer(text: str) -> None:
    spans = word_spans(text)
    for backend in TOKENIZERS:
        encoding = backend.encode(text, add_special_tokens=False)
        offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        words = words_of_tokens(offsets, spans[:, 1])
        whole = in_whole_words(offsets, words, spans)
        for word in np.unique(words[whole]):
            of_word = offsets[words == word]
            covered = {place for start, stop in of_word for place in range(start, stop)}
            stretch = set(range(*spans[word]))
            assert stretch <= covered
            assert all(text[place].isspace() for place in covered - stretch)


def test_a_space_put_before_a_text_is_not_the_word_whose_place_it_has() -> None:
    pieces = [("<unk>", 0.0), ("▁", -3.0), ("今天", -4.0), ("气", -5.0)]
    backend = Tokenizer(models.Unigram(pieces, 0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    encoding, spans = backend.encode("今天气"), word_spans("今天气")
    assert encoding.tokens == ["▁", "今天", "气"]
    offsets = np.array(encoding.offsets)
    assert offsets.tolist() == [[0, 1], [0, 2], [2, 3]]

    whole = in_whole_words(offsets, words_of_tokens(offsets, spans[:, 1]), spans)

    assert whole.tolist() == [False, False, True]


@pytest.mark.parametrize("backend", TOKENIZERS)
def test_almost_every_word_of_a_text_is_whole(backend: Tokenizer) -> None:
    (block,) = blocks_of([Document(TEXT, document_digest(TEXT))], backend, length=400)

    words = len(np.unique(block.words[block.whole]))

    assert words >= 0.9 * block.document_words


def test_a_word_cut_by_the_end_of_a_block_is_not_whole() -> None:
    text = "so " + "übergänge" * 5
    blocks = list(blocks_of([Document(text, document_digest(text))], byte_level(), length=8))

    assert len(blocks) > 2
    assert [bool(block.whole.any()) for block in blocks] == [True] + [False] * (len(blocks) - 1)


def test_a_text_laid_out_alone_tells_which_words_are_whole(
    teacher: Path, text: Path, tmp_path: Path
) -> None:
    record_text(
        teacher,
        [Corpus("en", text)],
        tmp_path / "text",
        masking=WORDS,
        block_length=32,
        word_logprobs=True,
    )
    arrays = Signals(tmp_path / "text").shard(0)

    assert arrays.word_logprobs is not None
    assert arrays.word_logprobs.shape == (len(arrays.words), 1)
    assert np.nanmax(np.abs(arrays.word_logprobs)) == 0
    assert np.isfinite(arrays.word_logprobs).mean() > 0.95
