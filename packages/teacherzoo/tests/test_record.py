import json
import re
import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForMaskedLM, BertConfig, BertForSequenceClassification, BertModel

from teacherzoo import (
    Corpus,
    CorpusError,
    Masking,
    RecordError,
    Signals,
    SignalsError,
    TeacherError,
    record,
)
from teacherzoo.signals import write as signals_write
from teacherzoo.signals.stats import stats
from teacherzoo.text.words import WORD_RULE

OPTIONS: dict[str, Any] = {"block_length": 32, "shard_bytes": 8000}


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but run.json, which holds the time."""
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.name != "run.json"}


def test_recording_twice_gives_the_same_bytes(
    recording: Path, teacher: Path, text: Path, tmp_path: Path
) -> None:
    record(teacher, [Corpus("en", text)], tmp_path / "again", **OPTIONS)

    assert contents(tmp_path / "again") == contents(recording)


def test_a_finished_recording_is_left_as_it_is(
    recording: Path, teacher: Path, text: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(recording, tmp_path / "copy"))
    times = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.parquet")}

    record(teacher, [Corpus("en", text)], folder, **OPTIONS)

    assert {path.name: path.stat().st_mtime_ns for path in folder.glob("*.parquet")} == times
    assert contents(folder) == contents(recording)


@pytest.mark.parametrize(
    "lost", [["signals.json"], ["en-00000.parquet"], ["en-00001.parquet", "signals.json"]]
)
def test_a_broken_off_recording_is_finished_to_the_byte(
    recording: Path, teacher: Path, text: Path, tmp_path: Path, lost: list[str]
) -> None:
    folder = Path(shutil.copytree(recording, tmp_path / "copy"))
    for name in lost:
        (folder / name).unlink()
    (folder / "en-00001.parquet.partial").write_bytes(b"half a shard")

    record(teacher, [Corpus("en", text)], folder, **OPTIONS)

    assert contents(folder) == contents(recording)


def test_languages_can_be_added_later(
    recording: Path, teacher: Path, text: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(recording, tmp_path / "copy"))
    more = Corpus("de", text, limit=40)

    record(teacher, [more], folder, **OPTIONS)
    record(teacher, [Corpus("en", text), more], tmp_path / "together", **OPTIONS)

    assert set(Signals(folder).languages) == {"en", "de"}
    assert contents(folder) == contents(tmp_path / "together")


def test_progress_runs_from_nothing_to_all(teacher: Path, text: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []

    record(
        teacher,
        [Corpus("en", text)],
        tmp_path,
        **OPTIONS,
        token_budget=256,
        watch=lambda done, total, what: seen.append((done, total, what)),
    )

    done = [entry[0] for entry in seen]
    assert done == sorted(done)
    assert len(done) > 10
    assert seen[-1][:2] == (seen[0][1], seen[0][1])
    assert "tokens/s" in seen[0][2]


def test_batches_change_nothing_but_the_last_bits(
    recording: Path, teacher: Path, text: Path, tmp_path: Path
) -> None:
    record(teacher, [Corpus("en", text)], tmp_path, **OPTIONS, token_budget=32)

    one, other = Signals(recording).batch(range(30)), Signals(tmp_path).batch(range(30))

    assert torch.equal(one.input_ids, other.input_ids)
    assert torch.equal(one.topk_ids, other.topk_ids)
    torch.testing.assert_close(one.topk_logprobs, other.topk_logprobs, atol=0.05, rtol=0)


@pytest.mark.parametrize("finished", [True, False])
def test_a_recording_goes_on_in_smaller_batches_and_says_which_shards_have_them(
    recording: Path, teacher: Path, text: Path, tmp_path: Path, finished: bool
) -> None:
    folder = Path(shutil.copytree(recording, tmp_path / "copy"))
    for name in ["en-00001.parquet", *([] if finished else ["signals.json"])]:
        (folder / name).unlink()
    kept = contents(folder)

    manifest = record(teacher, [Corpus("en", text)], folder, **OPTIONS, token_budget=32)

    found = contents(folder)
    assert {name: found[name] for name in kept if name != "signals.json"} == {
        name: content for name, content in kept.items() if name != "signals.json"
    }
    stated = {
        path.name: json.loads(pq.read_schema(path).metadata[b"teacherzoo"])["terms"]["token_budget"]
        for path in folder.glob("*.parquet")
    }
    assert stated == {
        path.name: 32 if path.name == "en-00001.parquet" else 4096
        for path in recording.glob("*.parquet")
    }
    assert manifest.settings.token_budget == 32
    one, other = Signals(recording).batch(range(30)), Signals(folder).batch(range(30))
    assert torch.equal(one.topk_ids, other.topk_ids)


def test_a_finished_recording_is_not_said_to_be_of_batches_it_never_had(
    recording: Path, teacher: Path, text: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(recording, tmp_path / "copy"))

    record(teacher, [Corpus("en", text)], folder, **OPTIONS, token_budget=32)

    assert contents(folder) == contents(recording)


def test_bfloat16_is_recorded_as_such_and_is_near(
    teacher: Path, text: Path, tmp_path: Path
) -> None:
    corpus = Corpus("en", text, limit=30)
    record(teacher, [corpus], tmp_path / "full", **OPTIONS)
    record(teacher, [corpus], tmp_path / "half", **OPTIONS, precision="bfloat16")

    full, half = Signals(tmp_path / "full"), Signals(tmp_path / "half")

    assert half.settings.precision == "bfloat16"
    difference = full.batch(range(20)).tail - half.batch(range(20)).tail
    assert 0 < difference.abs().mean() < 0.05


def test_a_corpus_of_one_line_is_one_row(teacher: Path, tmp_path: Path) -> None:
    path = tmp_path / "en.txt"
    path.write_text("bb ajja hecfe ageg.")

    record(teacher, [Corpus("en", path)], tmp_path / "signals", **OPTIONS)

    assert len(Signals(tmp_path / "signals")) == 1


@pytest.mark.parametrize("policy", ["bert", "whole_word"])
def test_each_policy_records(teacher: Path, text: Path, tmp_path: Path, policy: Any) -> None:
    record(
        teacher,
        [Corpus("en", text, limit=30)],
        tmp_path,
        **OPTIONS,
        masking=Masking(policy=policy, rate=0.3),
    )

    assert Signals(tmp_path).settings.masking.policy == policy


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"k": 9}, "with k 8, and now 9"),
        ({"temperatures": (3.0,)}, r"temperatures \(2.0, 4.0\), and now \(3.0,\)"),
        ({"masking": Masking(seed=5)}, "the masking"),
        ({"mask_draws": 2}, "mask_draws 1, and now 2"),
        ({"block_length": 24}, "block_length 32, and now 24"),
        ({"shard_bytes": 9000}, "shard_bytes 8000, and now 9000"),
        ({"precision": "bfloat16"}, "precision 'float32', and now 'bfloat16'"),
    ],
)
def test_other_options_than_recorded_are_refused_by_name(
    recording: Path, teacher: Path, text: Path, change: dict[str, Any], named: str
) -> None:
    before = contents(recording)

    with pytest.raises(SignalsError, match=named):
        record(teacher, [Corpus("en", text)], recording, **{**OPTIONS, **change})
    assert contents(recording) == before


def test_another_teacher_is_refused_by_name(
    recording: Path, tokenizer: Any, text: Path, tmp_path: Path, make_teacher: Callable[..., Path]
) -> None:
    other = make_teacher(tmp_path, tokenizer, seed=1)

    with pytest.raises(SignalsError, match="with teacher weights"):
        record(other, [Corpus("en", text)], recording, **OPTIONS)


def test_another_tokenizer_is_refused_by_name(
    recording: Path, teacher: Path, text: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(teacher, tmp_path / "other"))
    content = (other / "tokenizer.json").read_text()
    (other / "tokenizer.json").write_text(content.replace('"bb"', '"qq"'))

    with pytest.raises(SignalsError, match="with the tokenizer"):
        record(other, [Corpus("en", text)], recording, **OPTIONS)


def test_a_recording_names_its_rule_for_words_and_is_not_gone_on_with_by_another(
    teacher: Path, text: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "signals"
    record(teacher, [Corpus("en", text)], folder, k=2, block_length=16)
    file = folder / "signals.json"
    stated = json.loads(file.read_text())
    assert stated["terms"]["word_rule"] == WORD_RULE

    file.write_text(json.dumps(stated | {"terms": stated["terms"] | {"word_rule": "other words"}}))

    assert Signals(folder).settings.word_rule == stats(folder).word_rule == "other words"
    with pytest.raises(
        SignalsError, match="the rule for words 'other words', and now 'words of 2026-11' is asked"
    ):
        record(teacher, [Corpus("en", text)], folder, k=2, block_length=16)


def test_a_recording_that_names_no_rule_for_words_is_by_that_of_2026_11(
    teacher: Path, text: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "signals"
    record(teacher, [Corpus("en", text)], folder, k=2, block_length=16)
    before = Signals(folder).batch([0, 1])
    file = folder / "signals.json"
    stated = json.loads(file.read_text())
    del stated["terms"]["word_rule"]
    file.write_text(json.dumps(stated))

    torch.testing.assert_close(Signals(folder).batch([0, 1]).words, before.words)
    more = record(teacher, [Corpus("en", text), Corpus("de", text)], folder, k=2, block_length=16)
    assert set(more.corpora) == {"en", "de"}
    assert more.settings.word_rule == "words of 2026-11"


def test_another_corpus_is_refused_by_name(
    recording: Path, teacher: Path, text: Path, tmp_path: Path
) -> None:
    other = tmp_path / "en.txt"
    other.write_text(text.read_text() + "one more\n")

    with pytest.raises(SignalsError, match="from another corpus of 'en'"):
        record(teacher, [Corpus("en", other)], recording, **OPTIONS)


def test_an_unfinished_recording_of_another_teacher_is_refused_too(
    recording: Path, tokenizer: Any, text: Path, tmp_path: Path, make_teacher: Callable[..., Path]
) -> None:
    folder = Path(shutil.copytree(recording, tmp_path / "copy"))
    (folder / "signals.json").unlink()
    other = make_teacher(tmp_path / "other", tokenizer, seed=1)

    with pytest.raises(SignalsError, match="with teacher weights"):
        record(other, [Corpus("en", text)], folder, **OPTIONS)


def test_a_language_left_unfinished_is_not_forgotten(
    recording: Path, teacher: Path, text: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(recording, tmp_path / "copy"))
    (folder / "signals.json").unlink()

    with pytest.raises(SignalsError, match="part of a recording of 'en' that was never finished"):
        record(teacher, [Corpus("de", text)], folder, **OPTIONS)


@pytest.mark.parametrize("killed", [False, True])
def test_a_shard_that_another_machine_records_again_is_the_recording_again(
    recording: Path,
    teacher: Path,
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    killed: bool,
) -> None:
    folder = Path(shutil.copytree(recording, tmp_path / "copy"))
    file = folder / "en-00001.parquet"
    before = file.read_bytes()
    file.unlink()
    # Another library packs the same signals into other bytes.
    monkeypatch.setattr(signals_write, "_ZSTD_LEVEL", 1)
    if killed:  # between the shard and the manifest
        with monkeypatch.context() as patch:
            patch.setattr(import_module("teacherzoo.signals.record"), "finish_folder", interrupted)
            with pytest.raises(KeyboardInterrupt):
                record(teacher, [Corpus("en", text)], folder, **OPTIONS)

    record(teacher, [Corpus("en", text)], folder, **OPTIONS)

    assert file.read_bytes() != before
    whole, again = Signals(recording), Signals(folder)
    rows = range(len(whole))
    assert torch.equal(again.batch(rows).topk_logprobs, whole.batch(rows).topk_logprobs)


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_shard_that_changed_after_it_was_finished_is_damaged_not_new(
    recording: Path, teacher: Path, text: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(recording, tmp_path / "copy"))
    file = folder / "en-00001.parquet"
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 1
    file.write_bytes(content)

    with pytest.raises(
        SignalsError, match=r"en-00001.parquet is damaged; delete it and record again"
    ):
        record(teacher, [Corpus("en", text)], folder, **OPTIONS)


def test_a_shard_with_more_values_than_can_be_counted_is_one_sentence(
    teacher: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signals_write, "_MOST_VALUES", 1000)

    with pytest.raises(RecordError, match=r"A shard would hold \d,\d+ values .* lower shard_bytes"):
        record(teacher, [Corpus("en", text)], tmp_path, **OPTIONS)


def test_a_damaged_shard_of_an_unfinished_recording_is_found(
    recording: Path, teacher: Path, text: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(recording, tmp_path / "copy"))
    (folder / "signals.json").unlink()
    content = bytearray((folder / "en-00000.parquet").read_bytes())
    content[len(content) // 3] ^= 1
    (folder / "en-00000.parquet").write_bytes(content)

    with pytest.raises(SignalsError, match=r"en-00000.parquet is damaged"):
        record(teacher, [Corpus("en", text)], folder, **OPTIONS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k must be at least 1, got 0"),
        ({"k": 10_000}, "k must be at most the teacher's"),
        ({"temperatures": (0.0,)}, "temperature must be above 0"),
        ({"temperatures": (float("inf"),)}, "temperature must be above 0 and finite"),
        ({"temperatures": (2.0, 2.0)}, "given twice"),
        ({"mask_draws": 0}, "mask_draws must be at least 1"),
        ({"block_length": 500}, "reads at most 64 tokens"),
        ({"block_length": 4}, "block_length must be at least 8"),
        ({"precision": "int4"}, "precision must be"),
    ],
)
def test_senseless_options_are_refused(
    teacher: Path, text: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecordError, match=message):
        record(teacher, [Corpus("en", text)], tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_a_language_given_twice_is_refused(teacher: Path, text: Path, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="en: given twice"):
        record(teacher, [Corpus("en", text), Corpus("en", text)], tmp_path)


def test_text_that_changes_while_it_is_recorded_is_refused(
    teacher: Path, text: Path, tmp_path: Path
) -> None:
    folder, other = tmp_path / "signals", tmp_path / "de.txt"
    other.write_text("one two\nthree four\n")

    def change(_done: int, _total: int, what: str) -> None:
        if what.startswith("en"):
            other.write_text("one two\nthree five\n")

    with pytest.raises(CorpusError, match="de: the text has changed since the recording began"):
        record(teacher, [Corpus("en", text), Corpus("de", other)], folder, watch=change, **OPTIONS)
    assert not list(folder.glob("de-*"))


@pytest.mark.parametrize(
    ("other", "fault"),
    [("masks", "was recorded with the masking"), ("text", "was recorded from another corpus")],
)
def test_a_shard_that_another_process_recorded_otherwise_is_never_declared(
    teacher: Path, text: Path, tmp_path: Path, other: str, fault: str
) -> None:
    source, masking = text, Masking()
    if other == "masks":
        masking = Masking(seed=1)
    else:
        source = tmp_path / "other.txt"
        source.write_text(text.read_text() + "a line more\n")
    foreign, folder = tmp_path / "foreign", tmp_path / "signals"
    record(teacher, [Corpus("en", source)], foreign, masking=masking, **OPTIONS)

    def meanwhile(*_: Any) -> None:
        if folder.is_dir() and list(folder.glob("*.parquet")):
            shutil.copy(foreign / "en-00000.parquet", folder / "en-00000.parquet")

    with pytest.raises(SignalsError, match=f"en-00000.parquet {fault}"):
        record(teacher, [Corpus("en", text)], folder, watch=meanwhile, **OPTIONS)
    assert not (folder / "signals.json").exists()


def test_two_runs_never_record_into_a_folder_at_once(
    teacher: Path, text: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"block_length": 32, "shard_bytes": 4000}
    folder, alone = tmp_path / "signals", tmp_path / "alone"
    refused = []

    def second(*_: Any) -> None:
        if refused or not list(folder.glob("*.parquet")):
            return
        with pytest.raises(RecordError, match="signals is in use by process") as caught:
            record(teacher, [Corpus("en", text)], folder, masking=Masking(seed=1), **options)
        refused.append(caught)

    record(teacher, [Corpus("en", text)], folder, watch=second, **options)
    record(teacher, [Corpus("en", text)], alone, **options)

    assert len(refused) == 1
    assert contents(folder) == contents(alone)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "signals"]


def test_a_file_in_the_place_of_the_folder_is_refused_before_anything_is_read(
    text: Path, tmp_path: Path
) -> None:
    for folder in (text, text / "signals"):
        with pytest.raises(RecordError, match=re.escape(f"{folder} is to be a folder, but {text} is a file")):  # fmt: skip
            record(tmp_path / "nobody", [Corpus("en", text)], folder)


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_logits_that_are_not_numbers_are_named(
    teacher: Path, text: Path, tmp_path: Path, poison: float
) -> None:
    broken = Path(shutil.copytree(teacher, tmp_path / "broken"))
    model = AutoModelForMaskedLM.from_pretrained(broken)
    model.bert.encoder.layer[0].output.dense.bias.data[0] = poison
    model.save_pretrained(broken)

    with pytest.raises(TeacherError, match=r"not finite .* at en, document"):
        record(broken, [Corpus("en", text)], tmp_path / "signals")
    assert not (tmp_path / "signals").exists()


def test_text_of_unknown_pieces_only_is_refused(teacher: Path, tmp_path: Path) -> None:
    path = tmp_path / "ja.txt"
    path.write_text("日本語\n漢字\n")
    (tmp_path / "users").mkdir()

    with pytest.raises(RecordError, match="ja: nothing could be masked in 2 documents"):
        record(teacher, [Corpus("ja", path)], tmp_path / "signals")
    assert not (tmp_path / "signals").exists()
    with pytest.raises(RecordError, match="ja: nothing could be masked in 1 document, "):
        record(teacher, [Corpus("ja", path, limit=1)], tmp_path / "users")
    assert list((tmp_path / "users").iterdir()) == []


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)  # fmt: skip
def test_too_little_memory_is_one_sentence_and_smaller_batches_go_on(
    teacher: Path,
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    inference = import_module("teacherzoo.encoders.inference")
    ask = inference._predict_batch
    folder = tmp_path / "signals"

    def full(engine: Any, members: list[Any], *rest: Any) -> Any:
        if list(folder.glob("*.parquet")) and sum(len(row.input_ids) for row in members) > 32:
            raise error
        return ask(engine, members, *rest)

    monkeypatch.setattr(inference, "_predict_batch", full)
    with pytest.raises(RecordError, match="memory does not suffice for batches of 4,096 tokens") as caught:  # fmt: skip
        record(teacher, [Corpus("en", text)], folder, **OPTIONS)
    assert "\n" not in str(caught.value)
    kept = [path.name for path in folder.glob("*.parquet")]

    record(teacher, [Corpus("en", text)], folder, **OPTIONS, token_budget=32)

    assert kept == ["en-00000.parquet"]
    assert len(Signals(folder)) > 0


def test_other_errors_of_a_teacher_are_not_taken_for_too_little_memory(
    teacher: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr("teacherzoo.encoders.inference._predict_batch", broken)

    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        record(teacher, [Corpus("en", text)], tmp_path / "signals", **OPTIONS)


def test_a_full_disk_loses_nothing_that_was_recorded(
    recording: Path, teacher: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = signals_write.os.fsync
    calls = []

    def full_at_the_second(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(signals_write.os, "fsync", full_at_the_second)
    with pytest.raises(
        RecordError, match=r"en-00001.parquet cannot be written \(No space left on device\)"
    ):
        record(teacher, [Corpus("en", text)], tmp_path, **OPTIONS)

    assert [path.name for path in tmp_path.iterdir()] == ["en-00000.parquet"]
    monkeypatch.setattr(signals_write.os, "fsync", real)
    record(teacher, [Corpus("en", text)], tmp_path, **OPTIONS)
    assert contents(tmp_path) == contents(recording)


def test_a_teacher_without_a_mask_token_is_refused(
    teacher: Path, text: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(teacher, tmp_path / "other"))
    config = json.loads((other / "tokenizer_config.json").read_text())
    del config["mask_token"]
    (other / "tokenizer_config.json").write_text(json.dumps(config))

    with pytest.raises(TeacherError, match=r"no mask token;.* name it as `mask_token`"):
        record(other, [Corpus("en", text)], tmp_path / "signals")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (
            None,
            "there is no tokenizer (tokenizer.json) beside the model; save the model's own into",
        ),
        ("[]", "the tokenizer cannot be read: "),
        ('{"version": "9"}', "the tokenizer cannot be read: "),
    ],
)
def test_a_tokenizer_that_is_absent_or_damaged_is_refused_with_what_to_do(
    teacher: Path, text: Path, tmp_path: Path, content: str | None, fault: str
) -> None:
    other = shutil.copytree(teacher, tmp_path / "other")
    file = other / "tokenizer.json"
    if content is None:
        file.unlink()
    else:
        file.write_text(content)

    with pytest.raises(TeacherError) as caught:
        record(other, [Corpus("en", text)], tmp_path / "signals")

    assert str(caught.value).startswith(f"{other}: {fault}")
    assert content is None or str(caught.value).endswith("; fetch or save it again.")
    assert not (tmp_path / "signals").exists()


def test_a_tokenizer_larger_than_the_model_is_refused(
    tokenizer: Any, text: Path, tmp_path: Path, make_teacher: Callable[..., Path]
) -> None:
    other = make_teacher(tmp_path, tokenizer, vocab_size=len(tokenizer) - 1)

    with pytest.raises(TeacherError, match="they do not belong together"):
        record(other, [Corpus("en", text)], tmp_path / "signals")


@pytest.mark.parametrize("kind", [BertForSequenceClassification, BertModel])
def test_a_model_without_the_head_is_refused(
    tokenizer: Any, text: Path, tmp_path: Path, kind: Any
) -> None:
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
    )
    kind(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)

    with pytest.raises(TeacherError, match=f"saved as {kind.__name__}"):
        record(tmp_path, [Corpus("en", text)], tmp_path / "signals")


def test_weights_that_are_missing_are_named(teacher: Path, text: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    other = Path(shutil.copytree(teacher, tmp_path / "other"))
    weights = load_file(other / "model.safetensors")
    del weights["cls.predictions.transform.dense.weight"]
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(TeacherError, match=r"among them 'cls.predictions.transform.dense.weight'"):
        record(other, [Corpus("en", text)], tmp_path / "signals")


def test_damaged_weights_are_one_sentence(teacher: Path, text: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(teacher, tmp_path / "other"))
    content = (other / "model.safetensors").read_bytes()
    (other / "model.safetensors").write_bytes(content[:200])

    with pytest.raises(TeacherError, match="the weights cannot be read"):
        record(other, [Corpus("en", text)], tmp_path / "signals")


def test_a_name_in_the_catalogue_is_asked_for_on_the_hub(
    teacher: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = {"FacebookAI/xlm-roberta-base": str(teacher)}
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **_: hub[name])

    manifest = record("xlm-r-base", [Corpus("en", text, limit=5)], tmp_path, **OPTIONS)

    assert manifest.settings.teacher == "xlm-r-base"


def test_a_name_that_is_nowhere_is_one_sentence(text: Path, tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match="neither a folder, nor in the local cache"):
        record("no-such/teacher", [Corpus("en", text)], tmp_path)
    with pytest.raises(TeacherError, match="there is no such folder"):
        record(tmp_path / "nothing", [Corpus("en", text)], tmp_path)
    with pytest.raises(TeacherError, match=r"has no config\.json"):
        record(tmp_path, [Corpus("en", text)], tmp_path)


def test_a_long_reading_tells_how_far_it_is(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    survey = import_module("teacherzoo.signals.shard_plan")
    monkeypatch.setattr(survey, "_TOLD_EVERY", 100)
    told: list[tuple[int, int, str]] = []

    survey.plan_shards(
        [Corpus("en", text)], shard_bytes=8000, watch=lambda *report: told.append(report)
    )

    assert told[:2] == [(100, 0, "reading en"), (200, 0, "reading en")]
