"""Folders that sentence-transformers and transformers wrote do after a trim what they did before, opened by the same classes."""

import json
import tracemalloc
from pathlib import Path

import pytest
import sentence_transformers as st
import torch
import transformers
from safetensors import safe_open
from sentence_transformers.cross_encoder.modules import LogitScore
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from sentence_transformers.sentence_transformer.modules import (
    Dense,
    Normalize,
    Pooling,
    Router,
    StaticEmbedding,
    Transformer,
)
from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding, SpladePooling

from vocabmerge import (
    VocabularyError,
    count_pieces,
    read_layout,
    read_vocabulary,
    trim,
    trim_vocabulary,
)
from vocabmerge.encoder_folder.layout import named_ids
from vocabmerge.encoder_folder.write import write_trimmed

TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}  # fmt: skip
ROBERTA = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
LONG = {"max_position_embeddings": 48}


@pytest.fixture(scope="session")
def text(lines_of):
    """Text of two languages, the second of which a trim gives up."""
    return lines_of("aa", 120, 1), lines_of("bb", 120, 2)


@pytest.fixture(scope="session")
def tokenizer(text):
    """XLM-R's kind: Unigram, with the mask at the end."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=300, special_tokens=ROBERTA[:4], unk_token="<unk>", show_progress=False)  # fmt: skip
    made.train_from_iterator([*text[0], *text[1]], trainer)
    parsed = json.loads(made.to_str())
    parsed["model"]["vocab"].append(["<mask>", 0.0])
    mask = {**parsed["added_tokens"][0], "id": len(parsed["model"]["vocab"]) - 1, "content": "<mask>", "lstrip": True}  # fmt: skip
    parsed["added_tokens"].append(mask)
    made = Tokenizer.from_str(json.dumps(parsed))
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    names = dict(zip(("bos_token", "pad_token", "eos_token", "unk_token", "mask_token"), ROBERTA, strict=True))  # fmt: skip
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        cls_token="<s>",
        sep_token="</s>",
        model_max_length=40,
        model_input_names=["input_ids", "attention_mask"],
        **names,
    )


@pytest.fixture(scope="session")
def save_encoder(tokenizer):
    """Writes a tiny model with its tokenizer: `save_encoder(folder, architecture, **settings)`."""

    def save(folder, architecture="XLMRobertaModel", **settings):
        architecture = getattr(transformers, architecture)
        pad = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
        settings = {**TINY, **LONG, **pad, "vocab_size": len(tokenizer) + 3, **settings}
        torch.manual_seed(0)
        model = architecture(architecture.config_class(**settings))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return str(folder)

    return save


@pytest.fixture
def trimmed(text, tmp_path):
    """Trims a folder to the first language and gives back the new folder, the kept ids and the report."""

    def cut(folder, name="cut"):
        layout = read_layout(folder)
        vocabulary = read_vocabulary(Path(folder) / layout.tokenizer)
        made = trim_vocabulary(
            vocabulary,
            {"aa": count_pieces(vocabulary, text[0])},
            characters="all",
            protect=named_ids(layout),
        )
        assert len(made.kept) < len(vocabulary) - 20
        out = tmp_path / name
        out.mkdir()
        report = write_trimmed(layout, out, made)
        return str(out), made.kept, report

    return cut


def rare_pieces(tokenizer, text):
    """Two pieces of several characters that the text of the first language lacks."""
    used = {i for line in text[0] for i in tokenizer(line)["input_ids"]}
    rare = [i for i, piece in enumerate(tokenizer.convert_ids_to_tokens(range(len(tokenizer)))) if i not in used and len(piece) > 2]  # fmt: skip
    return [i for i in rare if i not in tokenizer.all_special_ids][-2:]


def files_of(folder):
    return {path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file()}  # fmt: skip


def tensors_of(file):
    with safe_open(file, framework="pt") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 -- no mapping


def sentence_encoder(folder, **options):
    transformer = Transformer(folder, **options)
    pooling = Pooling(16, pooling_mode="mean")
    dense = Dense(16, 8, activation_function=torch.nn.Tanh())
    return st.SentenceTransformer(modules=[transformer, pooling, dense, Normalize()], prompts={"query": "query: ", "passage": ""}, device="cpu")  # fmt: skip


def test_a_sentence_encoder_gives_the_same_vectors(save_encoder, trimmed, text, tmp_path):
    sentence_encoder(save_encoder(tmp_path / "base")).save(str(tmp_path / "model"))
    folder = tmp_path / "model"
    (folder / "LICENSE").write_text("MIT")
    left_out = ["made_of.json", "maps/model.safetensors", "onnx/model.onnx", "report.json", "stage.json", "tf_model.h5", "training_args.bin"]  # fmt: skip
    for name in left_out:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("of the whole model")

    out, kept, report = trimmed(folder)

    before, after = (st.SentenceTransformer(str(f), device="cpu") for f in (folder, out))
    for prompt in ("query", "passage"):
        old, new = (m.encode(text[0], prompt_name=prompt, convert_to_tensor=True) for m in (before, after))  # fmt: skip
        assert torch.equal(old, new)
    assert report["kind"] == "sentence"
    assert report["left_out"] == left_out
    assert files_of(out) == files_of(folder) - {"README.md", *left_out}
    same = files_of(out) - {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}  # fmt: skip
    assert {"modules.json", "2_Dense/model.safetensors", "LICENSE"} < same
    for name in same:
        assert (Path(out) / name).read_bytes() == (folder / name).read_bytes(), name
    config = json.loads((Path(out) / "config.json").read_text())
    assert config == {**json.loads((folder / "config.json").read_text()), "vocab_size": len(kept)}
    parts = report["before"]["parts"]
    assert parts["modules"]["parameters"] == 16 * 8 + 8
    assert report["after"]["parts"]["encoder"] == parts["encoder"]
    assert report["after"]["parts"]["vocabulary"]["parameters"] == len(kept) * 16


def test_pieces_stay_by_the_text_as_sentence_transformers_lowercases_it(save_encoder, text, tmp_path):  # fmt: skip
    """Folders of today have it in tokenizer.json as well, older ones in this setting alone."""
    sentence_encoder(save_encoder(tmp_path / "base")).save(str(tmp_path / "model"))
    settings = tmp_path / "model/sentence_bert_config.json"
    stated = json.loads(settings.read_text("utf-8"))
    settings.write_text(json.dumps({**stated, "do_lower_case": True}), "utf-8")
    lines = [line.upper() for line in text[0]]
    (tmp_path / "aa.txt").write_text("\n".join(lines), "utf-8")

    report = trim(tmp_path / "model", {"aa": tmp_path / "aa.txt"}, tmp_path / "out", prompts=["AA: "])  # fmt: skip

    before, after = (st.SentenceTransformer(str(tmp_path / name), device="cpu") for name in ("model", "out"))  # fmt: skip
    assert report["pieces"]["after"] < report["pieces"]["before"] - 20
    assert report["languages"]["aa"]["unknown_rate_before"] == 0
    for prompt in ("", "AA: "):
        old, new = (m.encode(lines, prompt=prompt, convert_to_tensor=True) for m in (before, after))
        assert torch.equal(old, new)


def test_a_cross_encoder_gives_the_same_scores(save_encoder, trimmed, text, tmp_path):
    base = save_encoder(tmp_path / "base", "XLMRobertaForSequenceClassification", num_labels=1)
    st.CrossEncoder(base, device="cpu").save_pretrained(str(tmp_path / "model"))
    pairs = list(zip(text[0], text[0][1:], strict=False))
    for number, folder in enumerate((base, tmp_path / "model")):  # transformers' own folder, too
        out, _, report = trimmed(folder, f"cut-{number}")
        before, after = (st.CrossEncoder(str(f), device="cpu") for f in (folder, out))
        old, new = (model.predict(pairs, convert_to_tensor=True) for model in (before, after))
        assert torch.equal(old, new)
        assert report["kind"] == "classifier"


def test_a_reranker_that_reads_answers_off_a_language_model_finds_them(
    save_encoder, trimmed, text, tokenizer, tmp_path
):
    """Its module names two pieces by id, which may be in no text."""
    base = save_encoder(tmp_path / "base", "Qwen3ForCausalLM", num_key_value_heads=2, head_dim=8)
    rare = rare_pieces(tokenizer, text)
    model = st.CrossEncoder(
        modules=[
            Transformer(base, transformer_task="text-generation"),
            LogitScore(true_token_id=rare[1], false_token_id=rare[0]),
        ],
        device="cpu",
    )
    model.save_pretrained(str(tmp_path / "model"))
    out, kept, _ = trimmed(tmp_path / "model")
    moved = json.loads((Path(out) / "1_LogitScore/config.json").read_text())
    assert [kept[moved["false_token_id"]], kept[moved["true_token_id"]]] == rare


def test_a_sparse_encoder_gives_the_kept_pieces_the_same_weights(
    save_encoder, trimmed, text, tmp_path
):
    base = save_encoder(tmp_path / "base", "XLMRobertaForMaskedLM")
    modules = [Transformer(base, transformer_task="fill-mask"), SpladePooling("max")]
    model = st.SparseEncoder(modules=modules, device="cpu")
    model.encode(text[0][:2])  # the pooling learns its size from what it sees
    model.save_pretrained(str(tmp_path / "model"))

    out, kept, report = trimmed(tmp_path / "model")

    after = st.SparseEncoder(out, device="cpu")
    old, new = (m.encode(text[0], convert_to_sparse_tensor=False) for m in (model, after))
    assert torch.equal(old[:, kept], new)
    assert report["kind"] == "sparse"
    assert after.get_embedding_dimension() == len(kept)


def test_a_sparse_encoder_with_a_table_for_queries(save_encoder, trimmed, text, tokenizer, tmp_path):  # fmt: skip
    base = save_encoder(tmp_path / "base", "XLMRobertaForMaskedLM", vocab_size=len(tokenizer))
    weight = torch.rand(len(tokenizer), generator=torch.Generator().manual_seed(1))
    document = [Transformer(base, transformer_task="fill-mask"), SpladePooling("max")]
    query = [SparseStaticEmbedding(tokenizer, weight=weight)]
    router = Router.for_query_document(query_modules=query, document_modules=document)
    model = st.SparseEncoder(modules=[router], device="cpu")
    model.save_pretrained(str(tmp_path / "model"))

    out, kept, _ = trimmed(tmp_path / "model")

    after = st.SparseEncoder(out, device="cpu")
    for way in ("encode_query", "encode_document"):
        old, new = (getattr(m, way)(text[0][:40], convert_to_sparse_tensor=False) for m in (model, after))  # fmt: skip
        assert torch.equal(old[:, kept], new), way


def routed(folders):
    query, document = (
        [Transformer(f), Pooling(16, pooling_mode=mode)]
        for f, mode in zip(folders, ("cls", "mean"), strict=True)
    )
    router = Router.for_query_document(query_modules=query, document_modules=document)
    return st.SentenceTransformer(modules=[router, Normalize()], device="cpu")


def test_both_routes_of_a_router_are_cut_alike(save_encoder, trimmed, text, tmp_path):
    folders = [save_encoder(tmp_path / "q", num_hidden_layers=1), save_encoder(tmp_path / "d")]
    model = routed(folders)
    model.save(str(tmp_path / "model"))
    out, kept, report = trimmed(tmp_path / "model")
    after = st.SentenceTransformer(out, device="cpu")
    for way in ("encode_query", "encode_document"):
        old, new = (getattr(m, way)(text[0][:40], convert_to_tensor=True) for m in (model, after))
        assert torch.equal(old, new), way
    assert report["after"]["parts"]["vocabulary"]["parameters"] == 2 * 16 * len(kept)


def test_routes_with_different_tokenizers_are_refused(save_encoder, trimmed, tmp_path):
    folders = [save_encoder(tmp_path / "q"), save_encoder(tmp_path / "d")]
    file = Path(folders[1]) / "tokenizer.json"
    parsed = json.loads(file.read_text())
    parsed["model"]["vocab"][9][1] -= 1.0
    file.write_text(json.dumps(parsed))
    routed(folders).save(str(tmp_path / "model"))
    with pytest.raises(VocabularyError, match="expected one tokenizer behind the router"):
        trimmed(tmp_path / "model")
    assert files_of(tmp_path / "cut") == set()


def test_static_embeddings_are_cut_too(trimmed, text, tokenizer, tmp_path):
    module = StaticEmbedding(tokenizer, embedding_dim=8)
    st.SentenceTransformer(modules=[module], device="cpu").save(str(tmp_path / "model"))
    out, kept, report = trimmed(tmp_path / "model")
    before, after = (st.SentenceTransformer(str(f), device="cpu") for f in (tmp_path / "model", out))  # fmt: skip
    old, new = (model.encode(text[0], convert_to_tensor=True) for model in (before, after))
    assert torch.equal(old, new)
    assert (report["architecture"], report["after"]["rows"]) == ("StaticEmbedding", len(kept))


def test_a_mask_of_pieces_keeps_and_renames_what_it_names(save_encoder, trimmed, text, tokenizer, tmp_path):  # fmt: skip
    rare = rare_pieces(tokenizer, text)
    word = tokenizer.convert_ids_to_tokens(rare[0])
    mask = MultiVectorMask(skiplist_words=[word], keep_only_token_ids=[rare[1]])
    model = st.MultiVectorEncoder(modules=[Transformer(save_encoder(tmp_path / "base")), mask], device="cpu")  # fmt: skip
    model.save_pretrained(str(tmp_path / "model"))
    out, kept, report = trimmed(tmp_path / "model")
    moved = json.loads((Path(out) / "1_MultiVectorMask/config.json").read_text())
    assert kept[moved["keep_only_token_ids"]].tolist() == [rare[1]]
    assert word in read_vocabulary(out).ids
    assert report["kind"] == "multi_vector"


@pytest.mark.parametrize(
    ("architecture", "settings"),
    [
        ("XLMRobertaForMaskedLM", {}),
        ("XLMRobertaForTokenClassification", {"num_labels": 5}),
        ("XLMRobertaForQuestionAnswering", {}),
        ("DPRQuestionEncoder", {}),
        ("BertModel", {}),
        ("DebertaV2Model", {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}),
        ("DebertaV2ForSequenceClassification", {"num_labels": 3, "pooler_hidden_size": 16}),
        ("DistilBertModel", {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16}),
        ("ElectraModel", {"embedding_size": 12}),
        ("MPNetModel", {}),
        ("ModernBertModel", {"cls_token_id": 0, "sep_token_id": 2}),
        ("ModernBertForSequenceClassification", {"num_labels": 1, "cls_token_id": 0, "sep_token_id": 2}),
        ("EuroBertModel", {"num_key_value_heads": 2, "mask_token_id": 4}),
        ("Gemma3TextModel", {"num_key_value_heads": 1, "head_dim": 8}),
        ("T5EncoderModel", {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}),
    ],
)  # fmt: skip
def test_every_class_answers_as_before(architecture, settings, save_encoder, trimmed, text, tmp_path):  # fmt: skip
    folder = save_encoder(tmp_path / "model", architecture, **settings)
    out, kept, report = trimmed(folder)
    assert report["architecture"] == architecture
    answers = []
    for place in (folder, out):
        tokenizer = transformers.AutoTokenizer.from_pretrained(place)
        model = getattr(transformers, architecture).from_pretrained(place).eval()
        assert model.config.vocab_size == model.get_input_embeddings().num_embeddings
        batch = tokenizer(text[0][:12], padding=True, truncation=True, return_tensors="pt")
        with torch.no_grad():
            answers.append(model(**batch, output_hidden_states=True))
    before, after = answers
    assert before.keys() == after.keys()
    for name in before.keys() - {"past_key_values"}:
        old = before[name]
        parts = zip(old, after[name], strict=True) if isinstance(old, tuple) else [(old, after[name])]  # fmt: skip
        for a, b in parts:
            assert torch.equal(a[..., kept] if a.shape[-1] > 100 else a, b), name


@pytest.mark.parametrize("stated", [{}, {"mask_token": "<mask>"}])
def test_special_tokens_of_an_older_folder_are_what_they_were(stated, save_encoder, trimmed, text, tmp_path):  # fmt: skip
    """With `special_tokens_map.json`, in which the mask swallows the space before it, and few settings beside it."""
    folder = Path(save_encoder(tmp_path / "model"))
    mask = {"content": "<mask>", "lstrip": True, "normalized": False, "rstrip": False, "single_word": False}  # fmt: skip
    names = ("bos_token", "pad_token", "eos_token", "unk_token")
    specials = {**dict(zip(names, ROBERTA, strict=False)), "mask_token": mask}
    (folder / "special_tokens_map.json").write_text(json.dumps(specials))
    settings = {"tokenizer_class": "XLMRobertaTokenizer", "model_max_length": 40, **stated}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    out, kept, _ = trimmed(folder)
    before, after = (transformers.AutoTokenizer.from_pretrained(place) for place in (folder, out))
    assert before.special_tokens_map == after.special_tokens_map
    lines = [f"{line} <mask> {line}" for line in text[0][:5]]
    assert [kept[ids].tolist() for ids in after(lines)["input_ids"]] == before(lines)["input_ids"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_its_bits_and_what_the_file_says(dtype, save_encoder, trimmed, tmp_path):  # fmt: skip
    folder = Path(save_encoder(tmp_path / "model", "XLMRobertaForMaskedLM"))
    transformers.AutoModelForMaskedLM.from_pretrained(folder, dtype=dtype).save_pretrained(folder)
    out, kept, _ = trimmed(folder)
    before, after = (tensors_of(Path(f) / "model.safetensors") for f in (folder, out))
    assert list(before) == list(after)
    for name, old in before.items():
        cut = len(old) > 100
        assert after[name].dtype == dtype
        assert torch.equal(after[name], old[kept] if cut else old), name
    with safe_open(Path(out) / "model.safetensors", framework="pt") as opened:
        assert opened.metadata() == {"format": "pt"}


def test_shards_and_pickled_weights_come_out_as_the_one_file_does(save_encoder, trimmed, tmp_path):
    folder = Path(save_encoder(tmp_path / "model", "BertForMaskedLM"))
    out, _, _ = trimmed(folder)
    expected = tensors_of(Path(out) / "model.safetensors")
    model = transformers.AutoModelForMaskedLM.from_pretrained(folder)

    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    sharded, _, report = trimmed(folder, "sharded")
    assert files_of(sharded) == files_of(out)
    assert report["left_out"] == []

    for file in folder.glob("model*"):
        file.unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    pickled, _, _ = trimmed(folder, "pickled")
    for other in (sharded, pickled):
        found = tensors_of(Path(other) / "model.safetensors")
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
        transformers.AutoModelForMaskedLM.from_pretrained(other)


def test_writing_holds_no_table_in_memory(save_encoder, trimmed, tmp_path):
    """A model of 24 MB, all but its rows of two layers the embedding, passes through blocks of 4 MB."""
    folder = save_encoder(tmp_path / "model", "T5EncoderModel", vocab_size=400_000, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)  # fmt: skip
    size = (Path(folder) / "model.safetensors").stat().st_size
    tracemalloc.start()
    try:
        out, kept, _ = trimmed(folder)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size > 24e6 > 12e6 > peak
    old, new = (tensors_of(Path(f) / "model.safetensors")["shared.weight"] for f in (folder, out))
    assert torch.equal(new, old[kept])


def bge_m3(save_encoder, folder):
    """A sentence encoder with the two linear layers that BGE-M3's own code reads beside it."""
    model = st.SentenceTransformer(
        modules=[Transformer(save_encoder(folder / "base")), Pooling(16, pooling_mode="cls"), Normalize()],
        device="cpu",
    )  # fmt: skip
    model.save(str(folder / "model"))
    for name, width in {"sparse_linear.pt": 1, "colbert_linear.pt": 16}.items():
        torch.save(torch.nn.Linear(16, width).state_dict(), folder / "model" / name)
    return folder / "model"


def test_linear_layers_beside_the_model_travel(save_encoder, trimmed, tmp_path):
    folder = bge_m3(save_encoder, tmp_path)
    out, _, report = trimmed(folder)
    for name in ("sparse_linear.pt", "colbert_linear.pt"):
        assert (Path(out) / name).read_bytes() == (folder / name).read_bytes()
    assert report["after"]["parts"]["modules"]["parameters"] == 16 + 1 + 16 * 16 + 16


class _Unsafe:
    def __reduce__(self):
        return (print, ("run",))


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("idf.pt", lambda rows: torch.ones(rows), r"idf.pt: its tensor has the shape \[\d+\], as long as the vocabulary"),
        ("unsafe.pt", lambda rows: _Unsafe(), "unsafe.pt: cannot be read without running code"),
        ("weights.pkl", lambda rows: 1, "weights.pkl: a pickle is not read here"),
    ],
)  # fmt: skip
def test_side_files_that_are_not_understood_are_refused(
    name, content, sentence, save_encoder, trimmed, tmp_path, capfd
):
    folder = bge_m3(save_encoder, tmp_path)
    capfd.readouterr()
    torch.save(content(len(read_vocabulary(folder))), folder / name)
    with pytest.raises(VocabularyError, match=sentence):
        trimmed(folder)
    assert files_of(tmp_path / "cut") == set()
    assert "run" not in capfd.readouterr().out


def test_weights_and_config_that_disagree_are_refused(save_encoder, trimmed, tmp_path):
    folder = Path(save_encoder(tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 999}))
    with pytest.raises(VocabularyError, match=r"vocab_size makes embeddings.word_embeddings.weight \[999, 16\]"):  # fmt: skip
        trimmed(folder)


def test_a_head_with_the_vocabulary_on_its_second_axis_is_refused(save_encoder, trimmed, tmp_path):
    """MobileBERT's; the same encoder without a head is cut."""
    small = {"embedding_size": 8, "intra_bottleneck_size": 8, "num_feedforward_networks": 1}
    headed = save_encoder(tmp_path / "headed", "MobileBertForMaskedLM", **small)
    with pytest.raises(VocabularyError, match=r"dense\.weight \[8, 3\d\d\] follows the vocabulary otherwise"):  # fmt: skip
        trimmed(headed)
    out, kept, _ = trimmed(save_encoder(tmp_path / "bare", "MobileBertModel", **small), "bare cut")
    assert len(transformers.AutoModel.from_pretrained(out).get_input_embeddings().weight) == len(kept)  # fmt: skip


def test_weights_with_fewer_rows_than_the_tokenizer_has_ids_are_refused(save_encoder, trimmed, tmp_path):  # fmt: skip
    folder = save_encoder(tmp_path / "model", vocab_size=200)
    with pytest.raises(VocabularyError, match=r"the tokenizer has \d+ ids and the embedding 200 rows"):  # fmt: skip
        trimmed(folder)


def test_a_damaged_file_is_one_sentence(save_encoder, trimmed, tmp_path):
    folder = Path(save_encoder(tmp_path / "model"))
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(VocabularyError, match="expected safetensors, cannot read it"):
        trimmed(folder)


def test_padding_that_moves_takes_positions_and_generation_settings_along(save_encoder, trimmed, text, tmp_path):  # fmt: skip
    folder = Path(save_encoder(tmp_path / "model", "XLMRobertaForMaskedLM"))
    vocabulary = read_vocabulary(folder)
    last = len(vocabulary) - 1
    for name in ("config.json", "generation_config.json"):
        file = folder / name
        settings = json.loads(file.read_text()) if file.is_file() else {}
        file.write_text(json.dumps({**settings, "pad_token_id": 12, "eos_token_id": [2, last]}))
    out, kept, _ = trimmed(folder)
    pad = kept.tolist().index(12)
    for name in ("config.json", "generation_config.json"):
        settings = json.loads((Path(out) / name).read_text())
        assert (settings["pad_token_id"], settings["eos_token_id"]) == (pad, [2, len(kept) - 1])
    name = "roberta.embeddings.position_embeddings.weight"
    old, new = (tensors_of(Path(f) / "model.safetensors")[name] for f in (folder, out))
    assert torch.equal(new, old[12 - pad :])
    transformers.AutoModelForMaskedLM.from_pretrained(out)
