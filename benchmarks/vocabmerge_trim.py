"""vocabmerge: what cutting a 250,002-piece XLM-R-shaped model down to 60,000 pieces costs beside its peers.

The vocabulary is synthetic (made-up words, Zipf-like counts), the model random. Our own time is everything between the
text of `tokenizer.json` and the counts on one side, and the text of the new `tokenizer.json`, the id map and the cut
model in memory on the other; reading and writing weights and segmenting a corpus are left out.

Peers: the loop of lm-vocab-trimmer, re-made from its description (for each piece, a test of membership in a list), on
every n-th piece and scaled; skeletoken, where it can be imported.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import transformers
from record import Recorder, extra_memory, parser

from vocabmerge.maps import VocabularyMap
from vocabmerge.models import replace_tensors, select_rows, vocabulary_tensors
from vocabmerge.tokenizer_file.vocabulary import parse_vocabulary
from vocabmerge.trim.trim import Trim, trim_vocabulary

FULL = {"V": 250_002, "kept": 60_000, "H": 768, "layers": 2}
QUICK = {"V": 50_002, "kept": 12_000, "H": 128, "layers": 2}
EVERY = 50  # pieces of which the list-membership loop sees one
LETTERS = "abcdefghijklmnopqrstuvwxyzäöüßéèçñабвгдежзийклмнопрстухцчшщыэюя"


def main() -> None:
    arguments = parser(__doc__.splitlines()[0]).parse_args()
    shape = QUICK if arguments.quick else FULL
    recorder = Recorder("vocabmerge_trim", arguments)
    text = json.dumps(tokenizer(shape["V"]), ensure_ascii=False)
    counts = zipf_counts(shape["V"])
    repeats = 3

    model = random_model(shape)
    table = model.get_input_embeddings().weight.detach().nbytes
    samples: dict[str, list[float]] = {}
    restore = restorer(model)
    for _ in range(repeats + 1):
        for stage, seconds in timed_stages(text, counts, shape["kept"], model).items():
            samples.setdefault(stage, []).append(seconds)
        restore()
    samples = {stage: times[1:] for stage, times in samples.items()}  # the first warms up
    memory = extra_memory(lambda: timed_stages(text, counts, shape["kept"], model))
    restore()
    recorder.add(
        "our own time, stage by stage",
        samples,
        unit="s",
        bar={"all of it": 3.0, "all of it, processor time": 3.0},
        memory={"all of it": memory},
        shape=shape,
    )
    recorder.add(
        "peak memory beyond model and input, in embedding matrices",
        {"all of it": [memory / table]},
        unit="x",
        bar={"all of it": 2.0},
        shape=shape | {"matrix MiB": table // 2**20},
    )

    contenders = {"vocabmerge, tokenizer alone": lambda: surgery(text, counts, shape["kept"])}
    skeletoken = skeletoken_surgery(text, counts, shape["kept"])
    if skeletoken is not None:
        contenders["skeletoken"] = skeletoken
    times: dict[str, list[float]] = {name: [] for name in contenders}
    loop: list[float] = []
    for turn in range(repeats):
        for name in list(contenders) if turn % 2 == 0 else list(reversed(contenders)):
            start = time.perf_counter()
            contenders[name]()
            times[name].append(time.perf_counter() - start)
        loop.append(membership_loop(text, counts, shape["kept"]))
    floor = "skeletoken" if skeletoken is not None else "vocabmerge, tokenizer alone"
    recorder.add(
        "tokenizer surgery alone, text to text",
        times,
        unit="s",
        floor=floor,
        bar={"vocabmerge, tokenizer alone": 2.0} if skeletoken is not None else None,
        shape=shape,
    )
    recorder.add(
        "list-membership loop",
        {"loop": loop, "our own time": samples["all of it"]},
        unit="s",
        floor="our own time",
        bar={"loop": 30.0},
        at_least=True,
        shape=shape | {"measured on every": EVERY},
    )
    recorder.close()


def timed_stages(
    text: str, counts: dict[str, np.ndarray], kept: int, model: Any
) -> dict[str, float]:
    """One whole cut; the seconds of each stage."""
    marks: dict[str, float] = {}
    start = before = time.perf_counter()
    busy = time.process_time()

    def mark(stage: str) -> None:
        nonlocal before
        now = time.perf_counter()
        marks[stage] = now - before
        before = now

    vocabulary = parse_vocabulary(text, name="before")
    mark("read tokenizer")
    cut: Trim = trim_vocabulary(vocabulary, counts, top=kept)
    mark("choose and rewrite")
    made: VocabularyMap = cut.map
    mark("id map")
    select_rows(model, cut.kept.tolist())
    mark("model")
    written = json.dumps(cut.tokenizer, ensure_ascii=False)
    mark("write tokenizer")
    marks["all of it"] = time.perf_counter() - start
    marks["all of it, processor time"] = time.process_time() - busy
    assert len(made) == len(vocabulary)
    assert written
    assert vocabulary_tensors(model).rows == kept
    return marks


def surgery(text: str, counts: dict[str, np.ndarray], kept: int) -> str:
    vocabulary = parse_vocabulary(text, name="before")
    return json.dumps(trim_vocabulary(vocabulary, counts, top=kept).tokenizer, ensure_ascii=False)


def skeletoken_surgery(
    text: str, counts: dict[str, np.ndarray], kept: int
) -> Callable[[], str] | None:
    """The same cut by skeletoken, which is told what to drop."""
    try:
        from skeletoken import TokenizerModel
    except ImportError:
        return None
    vocabulary = parse_vocabulary(text, name="before")
    cut = trim_vocabulary(vocabulary, counts, top=kept)
    dropped = [str(vocabulary.pieces[old]) for old in np.flatnonzero(cut.new_ids < 0)]

    def run() -> str:
        model = TokenizerModel.from_string(text).remove_tokens_from_vocabulary(dropped)
        return model.model_dump_json()

    assert TokenizerModel.from_string(run()).vocabulary_size == kept
    return run


def membership_loop(text: str, counts: dict[str, np.ndarray], kept: int) -> float:
    """Seconds that `[piece for piece in vocabulary if piece in kept]` takes, kept a list; from every n-th piece."""
    vocabulary = parse_vocabulary(text, name="before")
    cut = trim_vocabulary(vocabulary, counts, top=kept)
    kept_list = [str(vocabulary.pieces[old]) for old in cut.kept]
    entries = list(json.loads(text)["model"]["vocab"])[::EVERY]
    start = time.perf_counter()
    kept = [entry for entry in entries if entry[0] in kept_list]
    seconds = time.perf_counter() - start
    assert kept
    return seconds * EVERY


def restorer(model: Any) -> Callable[[], None]:
    """Puts the model's vocabulary back as it is now; no special id moves in between."""
    tensors = [tensor.detach() for tensor in vocabulary_tensors(model)]
    ids = {name: getattr(model.config, name) for name in ("pad_token_id", "eos_token_id")}

    def restore() -> None:
        old_tensors = vocabulary_tensors(model)
        replace_tensors(
            model,
            old_tensors,
            {id(old): new for old, new in zip(old_tensors, tensors, strict=True)},
        )
        assert ids == {name: getattr(model.config, name) for name in ids}

    return restore


def random_model(shape: dict[str, int]) -> Any:
    config = transformers.XLMRobertaConfig(
        vocab_size=shape["V"],
        hidden_size=shape["H"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["H"] // 64,
        intermediate_size=4 * shape["H"],
        max_position_embeddings=514,
        type_vocab_size=1,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
    )
    torch.manual_seed(0)
    return transformers.XLMRobertaForMaskedLM(config)


def zipf_counts(size: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(1)
    return {
        language: (1e7 / (1 + draw.permutation(size))).astype(np.int64) for language in ("en", "sw")
    }


def tokenizer(size: int) -> dict[str, Any]:
    """An XLM-R-like Unigram tokenizer: specials first, `<mask>` last, all single letters, made-up words."""
    draw = np.random.default_rng(0)
    pieces = dict.fromkeys(["<s>", "<pad>", "</s>", "<unk>", "▁", *LETTERS])
    letters = np.array(list(LETTERS))
    while len(pieces) < size - 1:
        lengths = draw.integers(2, 9, size=20_000)
        flat = letters[(draw.random(int(lengths.sum())) ** 2 * len(letters)).astype(int)]
        ends = np.cumsum(lengths)
        for end, length, first in zip(ends, lengths, draw.random(20_000) < 0.6, strict=True):
            pieces[("▁" if first else "") + "".join(flat[end - length : end])] = None
    names = [*list(pieces)[: size - 1], "<mask>"]
    scores = [0.0] * 4 + np.linspace(-4, -16, size - 5).round(4).tolist() + [0.0]

    def special(content: str) -> dict[str, Any]:
        return {
            "id": names.index(content),
            "content": content,
            "single_word": False,
            "lstrip": content == "<mask>",
            "rstrip": False,
            "normalized": False,
            "special": True,
        }

    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    wrap = {
        token: {"id": token, "ids": [number], "tokens": [token]}
        for token, number in (("<s>", 0), ("</s>", 2))
    }

    def step(token: str) -> dict[str, Any]:
        kind = "Sequence" if token in "AB" else "SpecialToken"
        return {kind: {"id": token, "type_id": 0}}

    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [special(token) for token in ("<s>", "<pad>", "</s>", "<unk>", "<mask>")],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace],
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [step(token) for token in ("<s>", "A", "</s>")],
            "pair": [step(token) for token in ("<s>", "A", "</s>", "</s>", "B", "</s>")],
            "special_tokens": wrap,
        },
        "decoder": metaspace,
        "model": {
            "type": "Unigram",
            "unk_id": 3,
            "vocab": [[name, score] for name, score in zip(names, scores, strict=True)],
            "byte_fallback": False,
        },
    }


if __name__ == "__main__":
    main()
