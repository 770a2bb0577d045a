"""A model folder is trimmed and opened by plain transformers."""

import json
import random
import resource

import pytest
import torch
import transformers
from huggingface_hub import ModelCard
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from typer.testing import CliRunner

from vocabmerge.cli.app import app
from vocabmerge.errors import VocabularyError
from vocabmerge.maps import load_map
from vocabmerge.tokenizer_file.reading import read_vocabulary
from vocabmerge.trim.folder import trim

TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}
BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ROBERTA = ["<s>", "<pad>", "</s>", "<unk>"]


def language(seed, letters, lines=200):
    draw = random.Random(seed)
    words = [
        "".join(draw.choice(letters) + draw.choice("aeiou") for _ in range(draw.randint(1, 4)))
        for _ in range(200)
    ]
    weights = [1 / (rank + 1) for rank in range(len(words))]
    return [" ".join(draw.choices(words, weights, k=7)) for _ in range(lines)]  # fmt: skip


TEXT = {"xx": language(1, "bdgkl"), "yy": language(2, "mnprs"), "zz": language(3, "tvwzh")}
LINES = [line for text in TEXT.values() for line in text]


def wordpiece():
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=False)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.train_from_iterator(LINES, trainers.WordPieceTrainer(vocab_size=500, special_tokens=BERT))
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return made  # fmt: skip


def unigram():
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    made.train_from_iterator(
        LINES, trainers.UnigramTrainer(vocab_size=500, special_tokens=ROBERTA, unk_token="<unk>")
    )
    parsed = json.loads(made.to_str())
    parsed["model"]["vocab"].append(["<mask>", 0.0])  # XLM-R's lies at the very end
    parsed["added_tokens"].append(
        parsed["added_tokens"][0]
        | {"id": len(parsed["model"]["vocab"]) - 1, "content": "<mask>", "lstrip": True}
    )
    made = Tokenizer.from_str(json.dumps(parsed))
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    return made  # fmt: skip


def byte_level():
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.train_from_iterator(
        LINES,
        trainers.BpeTrainer(
            vocab_size=600,
            special_tokens=["<|endoftext|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    return made  # fmt: skip


def save_bert(folder, **settings):
    tokenizer = transformers.BertTokenizer(
        tokenizer_object=wordpiece(), do_lower_case=False, vocab=wordpiece().get_vocab()
    )
    size = len(tokenizer) + settings.pop("extra_rows", 0)
    config = transformers.BertConfig(vocab_size=size, max_position_embeddings=64, **TINY)
    save(folder, tokenizer, transformers.BertForMaskedLM(config))  # fmt: skip


def save_distilbert(folder):
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=wordpiece(),
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "attention_mask"],
    )
    config = transformers.DistilBertConfig(
        vocab_size=len(tokenizer), dim=16, n_layers=1, n_heads=2, hidden_dim=16
    )
    save(folder, tokenizer, transformers.DistilBertForMaskedLM(config))  # fmt: skip


def save_xlm_roberta(folder):
    made = unigram()
    vocab = [tuple(entry) for entry in json.loads(made.to_str())["model"]["vocab"]]
    tokenizer = transformers.XLMRobertaTokenizer(vocab=vocab)
    config = transformers.XLMRobertaConfig(
        vocab_size=len(tokenizer),
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        max_position_embeddings=66,
        **TINY,
    )
    save(folder, tokenizer, transformers.XLMRobertaForMaskedLM(config))  # fmt: skip


def save_gpt2(folder):
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=byte_level(),
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        unk_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        model_input_names=["input_ids", "attention_mask"],
    )
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
    )
    save(folder, tokenizer, transformers.GPT2LMHeadModel(config))  # fmt: skip


def save(folder, tokenizer, model):
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)


KINDS = {
    "bert": save_bert,
    "distilbert": save_distilbert,
    "xlm-roberta": save_xlm_roberta,
    "gpt2": save_gpt2,
}


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpora")
    for name, lines in TEXT.items():
        (folder / f"{name}.txt").write_text("\n".join(lines), "utf-8")
    return {name: [folder / f"{name}.txt"] for name in ("xx", "yy")}


@pytest.fixture(scope="module")
def trimmed(tmp_path_factory, corpora):
    """Per kind of model: the folder before, the folder after, and the report."""
    made = {}
    for name, save_model in KINDS.items():
        folder = tmp_path_factory.mktemp(name)
        save_model(folder / "model")
        (folder / "model" / "README.md").write_text("---\nlicense: mit\n---\nof the whole model")
        report = trim(folder / "model", corpora, folder / "cut")
        made[name] = (folder / "model", folder / "cut", report)
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_plain_transformers_computes_the_same_from_the_trimmed_folder(kind, trimmed):
    before, after, _ = trimmed[kind]
    auto = (
        transformers.AutoModelForCausalLM if kind == "gpt2" else transformers.AutoModelForMaskedLM
    )
    old, new = auto.from_pretrained(before).eval(), auto.from_pretrained(after).eval()
    old_batch = transformers.AutoTokenizer.from_pretrained(before)(
        TEXT["xx"][:6] + TEXT["yy"][:6], padding=True, return_tensors="pt"
    )
    new_batch = transformers.AutoTokenizer.from_pretrained(after)(
        TEXT["xx"][:6] + TEXT["yy"][:6], padding=True, return_tensors="pt"
    )
    kept = torch.from_numpy(load_map(after / "maps" / "model.safetensors").inverse().one_to_one())

    assert torch.equal(kept[new_batch["input_ids"]], old_batch["input_ids"])
    assert new_batch.keys() == old_batch.keys()
    with torch.no_grad():
        a, b = (
            old(**old_batch, output_hidden_states=True),
            new(**new_batch, output_hidden_states=True),
        )
    assert all(torch.equal(x, y) for x, y in zip(a.hidden_states, b.hidden_states, strict=True))
    assert torch.equal(a.logits[..., kept], b.logits)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_tokenizer_and_config_agree_after_the_trim(kind, trimmed):
    before, after, report = trimmed[kind]
    old, tokenizer = (
        transformers.AutoTokenizer.from_pretrained(folder) for folder in (before, after)
    )
    config = transformers.AutoConfig.from_pretrained(after)

    assert type(tokenizer) is type(old)
    assert len(tokenizer) == config.vocab_size == report["pieces"]["after"] < len(old)
    assert sorted(tokenizer.get_vocab().values()) == list(range(len(tokenizer)))
    assert tokenizer.special_tokens_map == old.special_tokens_map
    assert config.pad_token_id in (tokenizer.pad_token_id, None)
    if kind == "xlm-roberta":
        assert (config.pad_token_id, tokenizer.mask_token_id) == (1, len(tokenizer) - 1)
    assert not list(after.glob("vocab.*"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_report_tells_what_it_cost(kind, trimmed):
    before, after, report = trimmed[kind]
    assert json.loads((after / "report.json").read_text("utf-8")) == report
    assert list(report["languages"]) == ["xx", "yy"]
    for row in report["languages"].values():
        assert row["unchanged"] == 1
        assert row["coverage"] == pytest.approx(1)
        assert row["tokens_per_word_before"] == row["tokens_per_word_after"]
    model = transformers.AutoModel.from_pretrained(before)
    assert report["model"]["before"]["parameters"] >= model.num_parameters()
    assert report["model"]["after"]["rows"] == report["pieces"]["after"]
    card = ModelCard.load(after / "README.md")
    assert "of the whole model" not in card.content
    assert card.data.license == "mit"
    assert card.data.base_model is None
    assert f"{report['pieces']['after']:,}" in card.text


def test_the_same_trim_twice_writes_the_same_bytes(trimmed, corpora, tmp_path):
    before, after, _ = trimmed["bert"]
    trim(before, corpora, tmp_path / "again")
    files = sorted(path.relative_to(after) for path in after.rglob("*") if path.is_file())
    assert files == sorted(
        p.relative_to(tmp_path / "again") for p in (tmp_path / "again").rglob("*") if p.is_file()
    )
    for file in files:
        assert (after / file).read_bytes() == (tmp_path / "again" / file).read_bytes(), file


def test_a_trimmed_folder_trimmed_again_is_itself(trimmed, corpora, tmp_path):
    _, after, report = trimmed["xlm-roberta"]
    again = trim(after, corpora, tmp_path / "twice")
    assert again["pieces"]["after"] == report["pieces"]["after"]
    for name in ("tokenizer.json", "model.safetensors", "config.json"):
        assert (tmp_path / "twice" / name).read_bytes() == (after / name).read_bytes()


def test_a_tokenizer_alone_is_trimmed_without_a_model(corpora, tmp_path):
    wordpiece().save(str(tmp_path / "tokenizer.json"))
    report = trim(tmp_path / "tokenizer.json", corpora, tmp_path / "cut", top=300)
    opened = transformers.AutoTokenizer.from_pretrained(tmp_path / "cut")
    assert report["model"]["kind"] == "tokenizer"
    assert report["model"]["after"]["parameters"] == 0
    assert len(opened) == 300
    assert opened.mask_token == "[MASK]"
    assert opened(TEXT["xx"][0])["input_ids"][0] == opened.cls_token_id


def test_the_pieces_of_prompts_stay(corpora, tmp_path):
    """Those that the folder's users put in front of every text, which no corpus shows."""
    wordpiece().save(str(tmp_path / "tokenizer.json"))
    prompt = TEXT["zz"][0]
    whole = read_vocabulary(tmp_path / "tokenizer.json")
    pieces = {whole.pieces[number] for number in whole.segmenter().encode(prompt).ids}
    for prompts, kept in (((), False), ((prompt,), True)):
        out = tmp_path / f"out-{kept}"
        trim(tmp_path / "tokenizer.json", {"xx": corpora["xx"]}, out, prompts=prompts)
        assert (pieces <= set(read_vocabulary(out).pieces)) == kept


def test_rows_beyond_the_vocabulary_are_dropped(corpora, tmp_path):
    save_bert(tmp_path / "model", extra_rows=13)
    report = trim(tmp_path / "model", corpora, tmp_path / "cut", top=300)
    assert report["model"]["after"]["rows"] == 300
    report = trim(tmp_path / "model", corpora, tmp_path / "rounded", top=300, multiple=64)
    assert report["model"]["after"]["rows"] == report["pieces"]["after"] == 320


def test_missing_rows_are_refused(corpora, tmp_path):
    save_bert(tmp_path / "model", extra_rows=-1)
    with pytest.raises(VocabularyError, match=r"tokenizer has \d+ ids and the embedding \d+ rows"):
        trim(tmp_path / "model", corpora, tmp_path / "cut")
    assert not (tmp_path / "cut").exists()


def test_a_bad_corpus_leaves_nothing_behind(corpora, tmp_path):
    wordpiece().save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "bad.txt").write_bytes(b"ba be\n\xff\n")
    with pytest.raises(VocabularyError, match=r"bad.txt, line 2: expected UTF-8"):
        trim(tmp_path / "tokenizer.json", {"xx": [tmp_path / "bad.txt"]}, tmp_path / "cut")
    assert {path.name for path in tmp_path.iterdir()} == {"bad.txt", "tokenizer.json"}


def test_a_full_disk_is_one_sentence_and_leaves_nothing_behind(corpora, tmp_path):
    config = transformers.BertConfig(**{**TINY, "hidden_size": 256}, vocab_size=500)
    transformers.BertModel(config).save_pretrained(tmp_path / "model")
    transformers.PreTrainedTokenizerFast(tokenizer_object=wordpiece()).save_pretrained(tmp_path / "model")  # fmt: skip
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        for largest_file in (2**12, 2**17):  # too little for the tokenizer, and for the weights
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, before[1]))
            with pytest.raises(VocabularyError, match=r"cannot write it.*make room there"):
                trim(tmp_path / "model", {"xx": corpora["xx"]}, tmp_path / "cut")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert {path.name for path in tmp_path.iterdir()} == {"model"}


def test_a_taken_folder_is_left_alone(corpora, tmp_path):
    wordpiece().save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(VocabularyError, match="expected a new or empty folder"):
        trim(tmp_path / "tokenizer.json", corpora, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere", "-o", "out", "--language", "xx=a.txt"], "nowhere: no such file or folder"),
        (["tokenizer.json", "-o", "out"], "expected the text of at least one language"),
        (["tokenizer.json", "-o", "out", "--language", "a.txt"], "--language: expected CODE=FILE, FOLDER or hub:NAME, got 'a.txt'"),
        (["tokenizer.json", "-o", "out", "--language", "xx=no.txt"], "no.txt: no such corpus file"),
        (["tokenizer.json", "-o", "out", "--language", "xx=empty.txt"], "empty.txt: the corpus is empty"),
        (["tokenizer.json", "-o", "out", "--language", "xx=a.txt", "--top", "9"], "the size is 9"),
        (["tokenizer.json", "-o", "out", "--language", "xx=a.txt", "--top", "9", "--budget", "9"], "expected one rule"),
        (["tokenizer.json", "-o", "out", "--language", "xx=a.txt", "--threshold", "2"], "expected a threshold between 0 and 1, got 2.0"),
        (["tokenizer.json", "-o", "out", "--language", "xx=a.txt", "--multiple", "0"], "multiple of 1 or more, got 0"),
        (["tokenizer.json", "-o", "out", "--language", "en"], "--language: expected CODE=FILE, FOLDER or hub:NAME, got 'en'"),
        (["tokenizer.json", "-o", "out", "--language", "en=hub:"], "expected hub:NAME[:CONFIG[:SPLIT]], got 'hub:'"),
        (["tokenizer.json", "-o", "out", "--language", "xx=a.txt", "--lines", "few"], "--lines: expected a number or 'all', got 'few'"),
        (["tokenizer.json", "-o", "out", "--language", "xx=a.txt", "--lines", "0"], "expected 1 line or more of a language, got 0"),
        (["tokenizer.json", "-o", "out", "--language", "xx=foreign.txt", "--coverage", "0.99"], "expected a coverage that can be met, got 0.99"),
        (["tokenizer.json", "-o", "out", "--language", "xx=a.txt", "--revision", "v1"], "--revision v1 is for a name on the Hub"),
        (["someone/small", "-o", "out", "--language", "xx=a.txt"], "`hf download someone/small`"),
        (["tokenizer.json", "--language", "xx=a.txt"], "expected a folder (-o) or a patch (--patch)"),
        (["tokenizer.json", "-o", "out", "--language", "xx=a.txt", "--push", "small"], "name it OWNER/NAME"),
        (["tokenizer.json", "-o", "out", "--language", "xx=a.txt", "--public"], "--public is for --push"),
        (["tokenizer.json", "--patch", "p", "--language", "xx=a.txt", "--push", "a/b"], "--push uploads a folder"),
        (["tokenizer.json", "--patch", "p", "--language", "xx=a.txt"], "a tokenizer alone is no base of a patch"),
        (["tokenizer.json", "--patch", "a.txt", "--language", "xx=a.txt"], "a.txt: exists already"),
        (["tokenizer.json", "--patch", "no/p", "--language", "xx=a.txt"], "there is no folder no"),
    ],
)  # fmt: skip
def test_bad_input_exits_2_with_one_sentence(arguments, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wordpiece().save("tokenizer.json")
    (tmp_path / "a.txt").write_text("ba be bi")
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "foreign.txt").write_text("привет мир")

    done = CliRunner().invoke(app, ["trim", "--quiet", *arguments])

    assert done.exit_code == 2
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_command_trims_several_corpora_and_prints_json(corpora, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wordpiece().save("tokenizer.json")
    given = [f"{name}={files[0]}" for name, files in corpora.items()]

    done = CliRunner().invoke(
        app,
        ["trim", "tokenizer.json", "--language", *given, "-o", "cut", "--budget", "320", "--json"],
    )

    assert done.exit_code == 0, done.stderr
    report = json.loads(done.stdout)
    assert list(report["languages"]) == ["xx", "yy"]
    assert report["pieces"]["after"] == len(read_vocabulary(tmp_path / "cut")) == 320
    shown = CliRunner().invoke(app, ["trim", "tokenizer.json", *given, "-o", "cut2"])
    assert "tokens per word" in shown.stdout
    assert "xx: 200 lines read; pieces chosen from half of them cover" in shown.stdout
