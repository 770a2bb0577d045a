import shutil
from pathlib import Path

import numpy as np
import torch

from teacherzoo import Corpus, Masking, Signals, record
from teacherzoo.signals.record_text import record_text


def test_the_weights_are_not_read(teacher: Path, text: Path, tmp_path: Path) -> None:
    beheaded = Path(shutil.copytree(teacher, tmp_path / "t"))
    (beheaded / "model.safetensors").unlink()

    record_text(beheaded, [Corpus("en", text, limit=5)], tmp_path / "text", block_length=32)

    assert len(Signals(tmp_path / "text")) >= 5


def test_the_text_is_laid_out_as_a_recording_and_speaks_for_itself(
    teacher: Path, text: Path, tmp_path: Path
) -> None:
    corpora = [Corpus("en", text)]
    settings = {
        "masking": Masking(policy="whole_word", seed=3),
        "mask_draws": 2,
        "block_length": 32,
    }
    record(teacher, corpora, tmp_path / "asked", k=2, temperatures=(), shard_bytes=8000, **settings)  # type: ignore[arg-type]  # a mapping of three kinds
    record_text(teacher, corpora, tmp_path / "text", shard_bytes=8000, **settings)  # type: ignore[arg-type]  # as above

    asked, laid_out = Signals(tmp_path / "asked"), Signals(tmp_path / "text")

    np.testing.assert_array_equal(asked.order(seed=1), laid_out.order(seed=1))
    first, second = asked.batch(range(len(asked))), laid_out.batch(range(len(asked)))
    for name in ("input_ids", "attention_mask", "rows", "positions", "labels", "words"):
        torch.testing.assert_close(getattr(first, name), getattr(second, name))
    torch.testing.assert_close(second.topk_ids[:, 0], second.labels)
    assert not second.topk_logprobs.any()
    assert not second.tail.any()
