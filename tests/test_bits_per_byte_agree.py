"""teacherzoo ranks and xeval judges by bits per byte: one written definition, two implementations that know nothing of each other."""

from pathlib import Path

import pytest
from toyworld import World

from teacherzoo.encoders.teachers import load_teacher
from teacherzoo.pretrain.config import PretrainingConfig
from teacherzoo.pretrain.pretrain import pretrain_teacher
from teacherzoo.rank.bits_per_byte import bits_per_byte
from teacherzoo.text.corpora import Corpus
from xeval.protocol import Protocol
from xeval.tasks import bpb

CHINESE = "他说：「中文没有空格，也有（标点）。」\u3000我们知道！Mixed句子，and more．"
KHMER = "ខ្ញុំ\u200bស្រឡាញ់\u200bភាសាខ្មែរ។អ្នករស់នៅភ្នំពេញ៖ តើ\u200b\u200bអ្វី៚"
ODD = [
    "Zoë naïvely re-read “quotes” … twice!",
    "e\u0301 is the letter é in two code points",
    "  many   spaces\tand\u00a0others\u3000here ",
    "中文没有空格 and 한국어 하나",
    CHINESE,
    "。，！",
    CHINESE.replace("\u3000", "") * 9,
    KHMER,
    "မြန်မာနိုင်ငံသည်၊အရှေ့တောင်အာရှတွင် ရှိသည်။။ရန်ကုန်",
    "ประเทศไทยตั้งอยู่ในเอเชีย๚๛กรุงเทพฯ เมืองหลวง",
    "unspellable ☃ ☃☃ snow☃man",
    "supercalifragilisticexpialidociouspneumonoultramicroscopic" * 3,
    "one",
    "1,234.50 % of $99 (sic)",
]


@pytest.fixture(scope="module", params=["wordpiece", "unigram", "bpe"])
def pretrained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher of each tokenizer family."""
    work = tmp_path_factory.mktemp(request.param)
    file = work / "text.txt"
    file.write_text("\n".join([*_sentences(400), ODD[0], CHINESE, KHMER]), encoding="utf-8")
    plan = PretrainingConfig(
        family=request.param,
        vocabulary=400,
        layers=1,
        width=16,
        heads=2,
        steps=3,
        batch=8,
        length=16,
    )
    return pretrain_teacher([Corpus("xx", file, held_out_share=0)], work / "t", config=plan).folder


def _sentences(count: int) -> list[str]:
    world = World(seed=0)
    return list(world.sentences(world.languages[0], count))


@pytest.mark.parametrize("length", [24, 128])
def test_the_two_implementations_agree(pretrained: Path, length: int) -> None:
    lines = _sentences(40)
    text = [*lines[:20], " ".join(lines[20:]), *ODD]

    ours = bits_per_byte(load_teacher(pretrained), text, max_length=length)
    protocol = Protocol(max_length=length, lines=0)
    (items,), _ = bpb.TASK.measure(
        bpb.TASK.open(str(pretrained), protocol), text, protocol, lambda done, total, what: None
    )

    bits, size = items.rows.sum(axis=0)
    assert size == ours.bytes
    assert 0 < ours.left_out_words < ours.words or "bpe" in str(pretrained)
    assert bits == pytest.approx(ours.bits, rel=1e-5)
