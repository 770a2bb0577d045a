"""A model folder gets a new vocabulary and stays a model that plain transformers opens."""

import json
import random
import shutil

import pytest
import sentence_transformers as st
import torch
import transformers
from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Transformer
from sentence_transformers.sparse_encoder.modules import MLMTransformer, SpladePooling
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from typer.testing import CliRunner

from vocabmerge.carry.folder import carry_model, read_source
from vocabmerge.cli.app import app
from vocabmerge.errors import VocabularyError
from vocabmerge.tokenizer_file.reading import read_vocabulary

TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}
BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ROBERTA = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def language(seed, letters, lines=200):
    draw = random.Random(seed)
    words = [
        "".join(draw.choice(letters) + draw.choice("aeiou") for _ in range(draw.randint(1, 4)))
        for _ in range(150)
    ]
    return [" ".join(draw.choices(words, [1 / (r + 1) for r in range(150)], k=7)) for _ in range(lines)]  # fmt: skip


TEXT = {"xx": language(1, "bdgkl"), "yy": language(2, "mnprs")}


def save_wordpiece(folder, lines, size=300):
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.train_from_iterator(lines, trainers.WordPieceTrainer(vocab_size=size, special_tokens=BERT))
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    folder.mkdir(parents=True, exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    return made.get_vocab_size()  # fmt: skip


def save_unigram(folder, lines, size=300):
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.train_from_iterator(
        lines, trainers.UnigramTrainer(vocab_size=size, special_tokens=ROBERTA, unk_token="<unk>")
    )
    made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    folder.mkdir(parents=True, exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    return made.get_vocab_size()  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """An XLM-R for xx, a BERT for both languages, and a WordPiece tokenizer for both as the new vocabulary."""
    folder = tmp_path_factory.mktemp("world")
    torch.manual_seed(0)
    size = save_unigram(folder / "xlmr", TEXT["xx"])
    config = transformers.XLMRobertaConfig(
        vocab_size=size + 7,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        max_position_embeddings=40,
        type_vocab_size=1,
        **TINY,
    )
    transformers.XLMRobertaForMaskedLM(config).save_pretrained(folder / "xlmr")
    size = save_wordpiece(folder / "bert", TEXT["xx"] + TEXT["yy"])
    transformers.BertForMaskedLM(transformers.BertConfig(vocab_size=size, **TINY)).save_pretrained(
        folder / "bert"
    )
    config = transformers.LlamaConfig(
        vocab_size=size, pad_token_id=0, bos_token_id=2, eos_token_id=[3, 9], **TINY
    )
    save_wordpiece(folder / "llama", TEXT["xx"] + TEXT["yy"])
    transformers.LlamaForCausalLM(config).save_pretrained(folder / "llama")
    save_wordpiece(folder / "new", TEXT["xx"] + TEXT["yy"][:80], size=250)
    for name, lines in TEXT.items():
        (folder / f"{name}.txt").write_text("\n".join(lines), "utf-8")
    return folder  # fmt: skip


@pytest.mark.parametrize("method", ["copy", "mean", "subword", "focus", "omp", "procrustes"])
def test_plain_transformers_opens_what_was_carried(method, world, tmp_path):
    models_used = [world / "xlmr", world / "bert"]
    corpora = {name: [world / f"{name}.txt"] for name in TEXT}
    report = carry_model(
        world / "new", models_used, tmp_path / "out", method=method, corpora=corpora, k=8
    )

    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    model = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "out").eval()
    batch = tokenizer(TEXT["xx"][:3] + TEXT["yy"][:3], padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(**batch).logits
    config = model.config

    assert logits.shape[-1] == len(tokenizer) == config.vocab_size == report["pieces"]
    assert torch.isfinite(logits).all()
    assert (config.pad_token_id, config.bos_token_id, config.eos_token_id) == (0, 2, 3)
    assert tokenizer.pad_token_id == config.pad_token_id
    assert report["copied"] + report["computed"] + report["random"] == report["pieces"]
    assert report["anchors"]["xlmr"] > 30
    assert report["anchors"]["bert"] > 150
    assert json.loads((tmp_path / "out" / "report.json").read_text("utf-8")) == report
    if method == "subword":
        assert report["random"] < 60
    if method == "focus":
        assert report["computed"] > 50


def test_a_model_carried_to_its_own_vocabulary_is_itself(world, tmp_path):
    carry_model(world / "bert", [world / "bert"], tmp_path / "out", method="copy")
    old = transformers.AutoModelForMaskedLM.from_pretrained(world / "bert").state_dict()
    new = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "out").state_dict()
    assert old.keys() == new.keys()
    assert all(torch.equal(old[key], new[key]) for key in old)


@pytest.mark.parametrize("place", ["", "0_Transformer"])
def test_a_sentence_encoder_is_carried_with_its_modules_and_prompts(place, world, tmp_path):
    """In today's layout, and in that of older folders, whose transformer lies in one of its own."""
    modules = [Transformer(str(world / "bert")), Pooling(16, pooling_mode="cls"), Dense(16, 8)]
    base = st.SentenceTransformer(modules=modules, prompts={"query": "ba: "}, device="cpu")
    base.save(str(tmp_path / "base"))
    if place:
        listed = json.loads((tmp_path / "base/modules.json").read_text())
        listed[0]["path"] = place
        (tmp_path / "base/modules.json").write_text(json.dumps(listed))
        (tmp_path / "base" / place).mkdir()
        of_transformer = ("config.json", "sentence_bert_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")  # fmt: skip
        for name in of_transformer:
            (tmp_path / "base" / name).rename(tmp_path / "base" / place / name)
    carry_model(world / "bert", [tmp_path / "base"], tmp_path / "out", method="copy")
    carried = st.SentenceTransformer(str(tmp_path / "out"), device="cpu")
    assert carried.prompts == base.prompts
    for prompt in ("query", None):
        expected = base.encode(TEXT["xx"][:9], prompt_name=prompt, convert_to_tensor=True)
        assert torch.equal(expected, carried.encode(TEXT["xx"][:9], prompt_name=prompt, convert_to_tensor=True))  # fmt: skip


def test_modules_that_know_the_vocabulary_are_not_carried(world, tmp_path):
    transformer = MLMTransformer(str(world / "bert"))
    size = len(read_source(world / "bert").embedding)
    sparse = st.SparseEncoder(modules=[transformer, SpladePooling(embedding_dimension=size)], device="cpu")  # fmt: skip
    sparse.save(str(tmp_path / "base"))
    with pytest.raises(VocabularyError, match="nothing of its vocabulary, got SpladePooling"):
        carry_model(world / "new", [tmp_path / "base"], tmp_path / "out")
    rows = read_source(tmp_path / "base").embedding
    assert torch.equal(rows, read_source(world / "bert").embedding)


def test_positions_are_counted_from_the_new_padding_id(world, tmp_path):
    carry_model(world / "new", [world / "xlmr"], tmp_path / "out")
    old = transformers.AutoModel.from_pretrained(
        world / "xlmr"
    ).embeddings.position_embeddings.weight
    new = transformers.AutoModel.from_pretrained(
        tmp_path / "out"
    ).embeddings.position_embeddings.weight
    assert torch.equal(new, old[1:])  # <pad> was 1, [PAD] is 0

    back = tmp_path / "back"
    save_unigram(back / "tokenizer", TEXT["xx"])
    carry_model(back / "tokenizer", [tmp_path / "out"], back / "out")
    again = transformers.AutoModel.from_pretrained(
        back / "out"
    ).embeddings.position_embeddings.weight
    assert torch.equal(again[1:], new)


def test_untied_heads_and_lists_of_ids_are_carried_too(world, tmp_path):
    report = carry_model(
        world / "new", [world / "llama"], tmp_path / "out", method="copy", pad_to=64
    )
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    old = read_source(world / "llama")
    new = read_vocabulary(world / "new")

    assert model.lm_head.weight.shape[0] == model.config.vocab_size == 256
    shared = [piece for piece in new.pieces if piece in old.vocabulary.ids]
    here = [new.ids[piece] for piece in shared]
    there = [old.vocabulary.ids[piece] for piece in shared]
    assert torch.equal(model.lm_head.weight[here], old.head[there])
    ninth = old.vocabulary.pieces[9]
    wanted = [3, new.ids[ninth]] if ninth in new.ids else [3]
    assert model.config.eos_token_id == wanted
    assert (ninth in new.ids) == ("eos_token_id" not in report["settings_without_token"])


def test_the_generation_config_is_carried_by_its_own_ids(world, tmp_path):
    """It has ends that config.json does not name, and lists of pieces."""
    base = tmp_path / "base"
    shutil.copytree(world / "llama", base)
    old, new = (Tokenizer.from_file(str(world / f"{n}/tokenizer.json")) for n in ("llama", "new"))
    both = sorted(old.get_vocab().keys() & new.get_vocab().keys(), key=old.token_to_id)
    gone = next(piece for piece in old.get_vocab() if new.token_to_id(piece) is None)
    moved = [p for p in both if old.token_to_id(p) != new.token_to_id(p)][:2]
    settings = json.loads((base / "generation_config.json").read_text("utf-8"))
    settings["eos_token_id"] = [old.token_to_id(piece) for piece in ("[SEP]", *moved)]
    settings["suppress_tokens"] = [old.token_to_id(piece) for piece in (moved[1], gone)]
    (base / "generation_config.json").write_text(json.dumps(settings), "utf-8")

    report = carry_model(world / "new", [base], tmp_path / "out", method="copy")
    carried = transformers.GenerationConfig.from_pretrained(tmp_path / "out")

    assert [new.id_to_token(i) for i in carried.eos_token_id] == ["[SEP]", *moved]
    assert [new.id_to_token(i) for i in carried.suppress_tokens] == [moved[1]]
    assert report["settings_without_token"]["suppress_tokens"] == [old.token_to_id(gone)]


def test_a_list_of_pieces_is_carried_to_another_family_by_what_they_say(world, tmp_path):
    """`ba` that opens a word is `▁ba` to the new vocabulary, whose `ba` continues one."""
    base = tmp_path / "base"
    shutil.copytree(world / "llama", base)
    old, new = (Tokenizer.from_file(str(world / f"{n}/tokenizer.json")) for n in ("llama", "xlmr"))
    opening = next(p for p in old.get_vocab() if len(p) > 1 and new.token_to_id(f"▁{p}") and new.token_to_id(p))  # fmt: skip
    settings = {"bad_words_ids": [[old.token_to_id(opening)]], "begin_suppress_tokens": [old.token_to_id("[SEP]")]}  # fmt: skip
    (base / "generation_config.json").write_text(json.dumps(settings), "utf-8")

    report = carry_model(world / "xlmr", [base], tmp_path / "out", method="copy")
    carried = transformers.GenerationConfig.from_pretrained(tmp_path / "out")

    assert carried.bad_words_ids == [[new.token_to_id(f"▁{opening}")]]
    assert carried.begin_suppress_tokens == [new.token_to_id("</s>")]
    assert not {"bad_words_ids", "begin_suppress_tokens"} & report["settings_without_token"].keys()


def test_settings_that_save_pretrained_refuses_are_carried(world, tmp_path):
    """A temperature without do_sample, as Llama 2 was published with."""
    base = tmp_path / "base"
    shutil.copytree(world / "llama", base)
    settings = {"temperature": 0.6, "top_p": 0.9}
    (base / "generation_config.json").write_text(
        json.dumps({**settings, "eos_token_id": 3}), "utf-8"
    )

    carry_model(world / "xlmr", [base], tmp_path / "out", method="copy")

    written = json.loads((tmp_path / "out/generation_config.json").read_text("utf-8"))
    assert {name: written.get(name) for name in settings} == settings
    assert written["eos_token_id"] == 2


def test_the_chat_template_of_the_new_tokenizer_comes_along(world, tmp_path):
    chat = transformers.AutoTokenizer.from_pretrained(world / "llama")
    chat.chat_template = "{% for message in messages %}{{ message.content }} [SEP] {% endfor %}"
    chat.save_pretrained(tmp_path / "chat")
    carry_model(tmp_path / "chat", [world / "llama"], tmp_path / "out", method="copy")
    carried = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert carried.chat_template == chat.chat_template


def test_the_same_carry_twice_writes_the_same_bytes(world, tmp_path):
    for name in ("one", "two"):
        carry_model(
            world / "new", [world / "xlmr", world / "bert"], tmp_path / name, method="omp", k=4
        )
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["new", "--model", "nowhere"], "nowhere: no such file or folder"),
        (["new", "--model", "new"], "new: cannot load the model"),
        (["nowhere", "--model", "bert"], "nowhere: no such file or folder"),
        (["new", "--model", "bert", "--method", "omp"], "omp expresses a piece in a second model"),
        (["new", "--model", "bert", "--method", "focus"], "got no corpus"),
        (
            ["new", "--model", "bert", "--method", "focus", "--language", "xx"],
            "--language: expected CODE=FILE",
        ),
        (["new", "--model", "bert", "--pad-to", "0"], "multiple of 1 or more, got 0"),
    ],
)
def test_bad_input_exits_2_with_one_sentence(arguments, sentence, world, tmp_path, monkeypatch):
    monkeypatch.chdir(world)
    done = CliRunner().invoke(app, ["carry", *arguments, "-o", str(tmp_path / "out")])
    assert done.exit_code == 2
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_command_says_what_was_carried(world, tmp_path, monkeypatch):
    monkeypatch.chdir(world)
    out = str(tmp_path / "out")
    arguments = [
        "carry",
        "new",
        "--model",
        "xlmr",
        "--model",
        "bert",
        "--method",
        "procrustes",
        "-o",
        out,
    ]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.stderr
    assert "xlmr" in done.stdout
    assert "anchors" in done.stdout
    done = CliRunner().invoke(app, [*arguments[:-1], out + "2", "--json"])
    assert json.loads(done.stdout)["method"] == "procrustes"


def test_a_model_with_missing_rows_is_refused(world, tmp_path):
    size = save_wordpiece(tmp_path / "short", TEXT["xx"])
    transformers.BertForMaskedLM(
        transformers.BertConfig(vocab_size=size - 3, **TINY)
    ).save_pretrained(tmp_path / "short")
    with pytest.raises(VocabularyError, match=f"has {size - 3} rows for {size} ids"):
        carry_model(world / "new", [tmp_path / "short"], tmp_path / "out")
