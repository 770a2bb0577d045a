"""Recording in processes of its own: killed, out of disk, several at once."""

import json
import os
import random
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from teacherzoo import Signals

ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def command(teacher: Path, text: Path, folder: Path, *more: str) -> list[str]:
    options = ["--block-length", "32", "--shard-bytes", "2000", "--token-budget", "128", *more]
    return [
        "-m",
        "teacherzoo",
        "record",
        str(teacher),
        "--corpus",
        f"en={text}",
        "-o",
        str(folder),
        *options,
    ]


def run(
    python: str, *arguments: str, launcher: tuple[str, ...] = (), **options: Any
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, *launcher, *arguments],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        **options,
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.name != "run.json"}


@pytest.mark.slow
def test_a_full_disk_is_one_sentence_and_the_rest_comes_later(
    python: str, teacher: Path, text: Path, tmp_path: Path
) -> None:
    folder, whole = tmp_path / "signals", tmp_path / "whole"
    # The first shards fit under the limit; a whole text in one shard does not.
    full = run(
        python,
        *command(teacher, text, folder, "--k", "32"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000)),
    )

    assert full.returncode == 2
    assert full.stdout == ""
    assert "cannot be written (File too large); what was recorded before is kept" in full.stderr
    assert full.stderr.splitlines()[-1].endswith("to go on.")
    assert "Traceback" not in full.stderr
    assert not list(folder.glob("*.partial"))
    assert run(python, *command(teacher, text, folder, "--k", "32")).returncode == 0
    assert run(python, *command(teacher, text, whole, "--k", "32")).returncode == 0
    assert contents(folder) == contents(whole)


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_in_the_same_bytes(
    python: str, tokenizer: Any, make_teacher: Callable[..., Path], text: Path, tmp_path: Path
) -> None:
    teacher = make_teacher(tmp_path / "teacher", tokenizer, hidden_size=64, intermediate_size=512)
    whole, folder = tmp_path / "whole", tmp_path / "signals"
    script = (
        "import sys, time, torch\n"
        "torch.set_num_threads(1)\n"
        "from teacherzoo import Corpus, record\n"
        "print('ready', flush=True)\n"
        "record(sys.argv[1], [Corpus('en', sys.argv[2])], sys.argv[3], block_length=32, shard_bytes=700,\n"
        "       token_budget=64, watch=lambda *_: time.sleep(0.002))\n"
        "print('done', flush=True)\n"
    )
    arguments = [python, "-c", script, str(teacher), str(text)]
    begun = time.monotonic()
    subprocess.run([*arguments, str(whole)], check=True, env=ENVIRONMENT, capture_output=True)
    chance = random.Random(0)

    kills = finished = 0
    while kills < 20:
        process = subprocess.Popen(
            [*arguments, str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=ENVIRONMENT,
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(chance.uniform(0.1, 0.7))
        process.send_signal(signal.SIGKILL)
        if b"done" in process.communicate()[0]:
            finished += 1
            # Break it off again, at a shard of chance.
            for name in chance.sample(sorted(path.name for path in folder.glob("*.parquet")), 5):
                (folder / name).unlink()
            (folder / "signals.json").unlink()
        kills += 1
    subprocess.run([*arguments, str(folder)], check=True, env=ENVIRONMENT, capture_output=True)

    assert contents(folder) == contents(whole)
    assert finished < 15, f"the drill missed: {time.monotonic() - begun:.0f} s"


@pytest.mark.slow
def test_processes_together_write_the_bytes_of_one(
    python: str, teacher: Path, text: Path, tmp_path: Path
) -> None:
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "--no-python", python)  # fmt: skip

    one = run(python, *command(teacher, text, tmp_path / "one", "--json"))
    two = run(python, *command(teacher, text, tmp_path / "two", "--json"), launcher=torchrun)

    assert one.returncode == two.returncode == 0, two.stderr
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    lines = [line for line in two.stdout.splitlines() if line.startswith("{")]
    assert len(lines) == 1
    assert json.loads(lines[0])["positions"] == json.loads(one.stdout)["positions"]


@pytest.mark.slow
def test_a_vocabulary_of_half_a_million_is_recorded(
    python: str, tmp_path: Path, make_sentences: Callable[..., list[str]]
) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

    words = dict.fromkeys(word for line in make_sentences(40) for word in line.rstrip(".").split())
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *words]
    pieces += [f"filler{number}" for number in range(500_000 - len(pieces))]
    tokenizer = Tokenizer(
        models.WordLevel({piece: n for n, piece in enumerate(reversed(pieces))}, "[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    names = {"unk_token": "[UNK]", "pad_token": "[PAD]", "mask_token": "[MASK]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(
        tmp_path / "teacher"
    )
    config = BertConfig(
        vocab_size=500_000,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
    )
    BertForMaskedLM(config).save_pretrained(tmp_path / "teacher")
    (tmp_path / "en.txt").write_text("\n".join(make_sentences(40)))

    done = run(python, *command(tmp_path / "teacher", tmp_path / "en.txt", tmp_path / "signals"))

    assert done.returncode == 0, done.stderr
    batch = Signals(tmp_path / "signals").batch([0, 1])
    assert int(batch.token_ids.max()) > 2**18
    assert int(batch.topk_ids.max()) > 2**17
