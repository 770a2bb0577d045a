"""A student that learns an encoder's hidden states beside its teachers' predictions, though both cut text each its own way."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pytest
import torch
import yaml
from rich.console import Console
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AlbertConfig,
    AlbertModel,
    AutoModel,
    AutoModelForMaskedLM,
    AutoTokenizer,
    FunnelBaseModel,
    FunnelConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5Model,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from mergedistill.cli.tables import plan_table
from mergedistill.errors import RecipeError, StageError
from mergedistill.recipe import stages as staging
from mergedistill.recipe.read import altered, read_recipe, without_places
from mergedistill.recipe.recipe import Recipe
from mergedistill.recipe.stages import ensembles_or_refuse, stages
from mergedistill.run.ablate import baselines
from mergedistill.run.forecast import plan
from mergedistill.run.run import run
from mergedistill.student.initialise import new_student
from mergedistill.student.loss import DistillationLoss
from mergedistill.student.states import StatesTerm, unexplained
from mergedistill.targets.encoder_states import EncoderStates, count_words, open_states
from mergedistill.targets.encoder_words import EncoderWords, WordsOfBatch
from mergedistill.targets.online_ensemble import open_online
from mergedistill.targets.recorded import open_signals
from mergedistill.training.schedule import batch_inputs
from teacherzoo import SignalBatch, Signals, TeacherError
from teacherzoo.text.words import word_spans

Recipes = Callable[..., Recipe]
BATCH = [*range(0, 24, 2)]


def _xlm_r(made: Tokenizer, folder: Path, *, positions: int = 130) -> None:
    """An encoder without a head, as transformers writes it."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", unk_token="<unk>")
    torch.manual_seed(2)
    config = XLMRobertaConfig(
        vocab_size=len(tokenizer), hidden_size=48, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=positions, pad_token_id=0, initializer_range=0.3,
    )  # fmt: skip
    XLMRobertaModel(config, add_pooling_layer=False).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _byte_level(lines: list[str], folder: Path, **options: Any) -> None:
    """An encoder whose tokenizer cuts bytes and adds nothing around a text."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.ByteLevel(trim_offsets=False)
    made.train_from_iterator(
        lines,
        trainers.BpeTrainer(
            vocab_size=500, special_tokens=["<pad>", "<unk>"], show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )  # fmt: skip
    _xlm_r(made, folder, **options)


def _words_only(words: list[str], folder: Path) -> None:
    """An encoder that knows these words and no other."""
    pieces = {piece: number for number, piece in enumerate(["<pad>", "<unk>", *words])}
    made = Tokenizer(models.WordLevel(pieces, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    _xlm_r(made, folder)


@pytest.fixture(scope="module")
def encoders(families: Path) -> Path:
    """A folder with encoders of English: `unigram` and `wordpiece`, the bodies of the teachers, `bytes`, `short`, `stranger`."""
    folder = families / "encoders"
    for name in ("unigram", "wordpiece"):
        body = AutoModelForMaskedLM.from_pretrained(families / name).base_model
        body.save_pretrained(folder / name)
        AutoTokenizer.from_pretrained(families / name).save_pretrained(folder / name)
    lines = (families / "en.txt").read_text().splitlines()
    _byte_level(lines, folder / "bytes")
    _byte_level(lines, folder / "short", positions=1 + 24)
    _words_only(["ja", "nein"], folder / "stranger")
    (folder / "unigram" / "README.md").write_text("---\nlicense: mit\n---\nAn encoder.\n")
    return folder


@pytest.fixture
def prose_recipe(families: Path, encoders: Path, tmp_path: Path) -> Recipes:
    """Makes recipes of English with one teacher, which share their recordings, and an encoder."""

    def made(*, teacher: str = "wordpiece", encoder: str = "unigram", **changes: object) -> Recipe:
        stated: dict[str, object] = {
            "out": "run",
            "signals": str(families / "signals"),
            "languages": {"en": str(families / "en.txt")},
            "teachers": [{"teacher": str(families / teacher), "languages": ["en"]}],
            "held_out_share": 0.1,
            "rank": {"documents": 4},
            "student": {"layers": 1, "width": 32},
            "distil": {"block_length": 64},
            "states": {"encoder": str(encoders / encoder)},
            "train": {"steps": 2, "tokens": 256},
        }
        file = tmp_path / "recipe.yaml"
        file.write_text(yaml.safe_dump(stated | changes))
        return read_recipe(file)

    return made


def _opened(
    recipe: Recipe,
) -> tuple[dict[str, Signals], EncoderStates, dict[str, WordsOfBatch], Any]:
    """Signals, encoder, words and the student before its first step."""
    run(recipe, until="record")
    vocabulary = stages(recipe)["vocabulary"].folder
    ensembles = ensembles_or_refuse(recipe)
    signals = (open_online if recipe.distil.online else open_signals)(recipe, ensembles, vocabulary)
    if isinstance(signals, tuple):
        signals = signals[0]
    assert recipe.states is not None
    encoder, words = open_states(recipe, recipe.states, vocabulary)
    return signals, encoder, words, new_student(recipe, ensembles, vocabulary).eval()


def _term(encoder: EncoderStates, student: Any, weight: float = 1.0) -> StatesTerm:
    """With a map that is already about somewhere."""
    term = StatesTerm(encoder, width=student.config.hidden_size, weight=weight)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for part in term.map.parameters():
            part.copy_(torch.randn(part.shape, generator=generator) / 4)
    return term


def _bare(word: str) -> str:
    """What tokenizers leave of a word, whichever of them folds case or forms such as `²`."""
    return normalize("NFKC", word).strip().lower()


def _pieces_of_word(
    text: str, offsets: list[tuple[int, int]], start: int, stop: int
) -> list[int] | None:
    """The numbers of the tokens that make a word, looked up character by character; None where one holds more than it."""
    before = start
    while before and text[before - 1].isspace():
        before -= 1
    numbers = []
    for number, (begin, end) in enumerate(offsets):
        letters = [place for place in range(begin, end) if not text[place].isspace()]
        inside = [place for place in letters if start <= place < stop]
        if inside and inside != letters:
            return None
        if inside or (not letters and before <= begin < start):
            numbers.append(number)
    covered = {place for number in numbers for place in range(*offsets[number])}
    return numbers if covered >= {*range(start, stop)} else None


def _plain_words(
    batch: SignalBatch, student: Any, encoder: Any
) -> list[tuple[int, list[int], list[int], list[int]]]:
    """Of each word that both have: its block, its places there, the encoder's ids of the block, and its places among those.

    For a student whose WordPiece cuts each word as if it stood alone.
    """
    words = []
    for row, pieces in enumerate(batch.token_ids.tolist()):
        text = student.decode(pieces, skip_special_tokens=True)
        encoded = encoder(text, return_offsets_mapping=True)
        offsets = [tuple(pair) for pair in encoded["offset_mapping"]]
        place = 1
        for start, stop in word_spans(text).tolist():
            own = student(text[start:stop], add_special_tokens=False)["input_ids"]
            while pieces[place] == student.unk_token_id:
                place += 1
            assert pieces[place : place + len(own)] == own
            numbers = _pieces_of_word(text, offsets, start, stop)
            unknown = {encoded["input_ids"][number] for number in numbers or ()} & {encoder.unk_token_id}  # fmt: skip
            if numbers and not unknown:
                places = [*range(place, place + len(own))]
                words.append((row, places, encoded["input_ids"], numbers))
            place += len(own)
    return words


def test_the_term_is_the_formula_in_a_loop_over_words(
    prose_recipe: Recipes, families: Path, encoders: Path
) -> None:
    recipe = prose_recipe()
    signals, encoder, words_of, student = _opened(recipe)
    inputs = batch_inputs(signals["en"], BATCH, recipe.distil, words_of["en"])
    term = _term(encoder, student)
    hidden = student.base_model(
        input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]
    ).last_hidden_state

    value = term(hidden, inputs["states"])

    vocabulary = stages(recipe)["vocabulary"].folder
    batch = signals["en"].batch(BATCH)
    reads = AutoTokenizer.from_pretrained(vocabulary / "languages" / "en")
    teacher = AutoModel.from_pretrained(encoders / "unigram", add_pooling_layer=False).eval()
    plain = _plain_words(batch, reads, AutoTokenizer.from_pretrained(encoders / "unigram"))
    pairs = []
    with torch.no_grad():
        for row, places, ids, numbers in plain:
            length = int(batch.attention_mask[row].sum())
            own = student.base_model(batch.input_ids[row : row + 1, :length]).last_hidden_state[0]
            states = teacher(torch.tensor([ids])).last_hidden_state[0]
            mapped = term.map(own[places].mean(0))
            pairs.append((mapped.double(), states[numbers].double().mean(0)))
    mean = sum(target for _, target in pairs) / len(pairs)
    spread = sum(float(((target - mean) ** 2).sum()) for _, target in pairs) / (len(pairs) - 1)
    distance = sum(float(((mapped - target) ** 2).sum()) for mapped, target in pairs) / len(pairs)
    assert len(pairs) == inputs["states"].count > 100
    assert value.item() == pytest.approx(distance / spread, rel=1e-4)
    assert (
        batch.input_ids != batch.token_ids
    ).any()  # the student does not see all that the encoder sees


@pytest.mark.parametrize(
    ("teacher", "encoder", "least"),
    [
        ("wordpiece", "wordpiece", 1.0),
        ("wordpiece", "unigram", 0.7),  # SentencePiece glues marks to words
        ("wordpiece", "bytes", 0.95),
        ("unigram", "wordpiece", 0.7),
        ("unigram", "bytes", 0.7),
    ],
)
def test_words_are_the_same_text_on_both_sides_and_most_are_met(
    prose_recipe: Recipes, encoders: Path, teacher: str, encoder: str, least: float
) -> None:
    recipe = prose_recipe(teacher=teacher, encoder=encoder)
    signals, _, words, _ = _opened(recipe)
    reader = words["en"]
    assert isinstance(reader, EncoderWords)
    reads = AutoTokenizer.from_pretrained(stages(recipe)["vocabulary"].folder / "languages" / "en")
    encoder_reads = AutoTokenizer.from_pretrained(encoders / encoder)
    batch = signals["en"].batch(range(len(signals["en"])))

    blocks = reader.blocks(batch)

    met = 0
    for pieces, block in zip(batch.token_ids.tolist(), blocks, strict=True):
        for word in range(1 + int(block.words.max())):
            places = (block.words == word).nonzero()[0]
            assert places.tolist() == [*range(places[0], places[-1] + 1)]
            own = reads.decode([pieces[place] for place in places])
            other = encoder_reads.decode(block.encoder_ids[block.encoder_words == word].tolist())
            assert _bare(own) == _bare(other) != ""
            assert len(own.split()) == 1
            met += 1
    total = sum(block.text_words for block in blocks)
    assert least * total <= met <= total
    assert count_words(signals, words, encoder) == {"en": {"words": total, "met": met}}


def test_an_encoder_with_fewer_positions_than_a_block_reads_its_beginning(
    prose_recipe: Recipes,
) -> None:
    recipe = prose_recipe(encoder="short")
    signals, encoder, words, student = _opened(recipe)

    targets = words["en"](signals["en"].batch(BATCH))

    _, _, words_of_longer, _ = _opened(prose_recipe(encoder="bytes"))
    longer = words_of_longer["en"](signals["en"].batch(BATCH))
    assert targets.input_ids.shape[1] == 24 < longer.input_ids.shape[1]
    assert 20 < targets.count < longer.count
    assert targets.cells.tolist() == longer.cells[torch.isin(longer.cells, targets.cells)].tolist()
    assert encoder.words(targets).isfinite().all()
    inputs = batch_inputs(signals["en"], BATCH, recipe.distil, words["en"])
    assert (
        DistillationLoss(student, recipe.distil, (), _term(encoder, student))(**inputs).states > 0
    )


@pytest.mark.parametrize("layer", [0, 1, 2, "last"])
@pytest.mark.parametrize("name", ["bert", "modernbert"])
def test_a_layer_s_states_are_those_of_the_whole_encoder(
    prose_recipe: Recipes, recipe_of: Recipes, town: Path, encoders: Path, name: str, layer: Any
) -> None:
    if name == "bert":
        folder, language = encoders / "wordpiece", "en"
        recipe = prose_recipe(states={"encoder": str(folder), "layer": layer})
    else:  # whose states are sums that only the last norm bounds
        folder, language = town / "uni", "qav"
        recipe = recipe_of(states={"encoder": str(folder), "layer": layer})
    signals, encoder, words, _ = _opened(recipe)
    targets = words[language](signals[language].batch(BATCH))
    whole = AutoModel.from_pretrained(folder).eval()

    states = encoder.words(targets)

    with torch.no_grad():
        output = whole(targets.input_ids, targets.attention_mask, output_hidden_states=True)
    wanted = output.last_hidden_state if layer in (2, "last") else output.hidden_states[layer]
    rows = wanted.flatten(0, 1)[targets.encoder_cells]
    for word in range(targets.count):
        mean = rows[targets.encoder_words == word].mean(0)
        torch.testing.assert_close(states[word], mean, rtol=1e-4, atol=1e-5)
    assert sum("layers." in key or "layer." in key for key in encoder._encoder.state_dict()) > 0 or layer == 0  # fmt: skip


def test_gradients_reach_the_student_and_the_map_and_not_the_encoder(
    prose_recipe: Recipes,
) -> None:
    recipe = prose_recipe()
    signals, encoder, words, student = _opened(recipe)
    inputs = batch_inputs(signals["en"], BATCH, recipe.distil, words["en"])
    plain = DistillationLoss(student, recipe.distil)(
        **{name: value for name, value in inputs.items() if name != "states"}
    )
    model = DistillationLoss(student, recipe.distil, (), _term(encoder, student, weight=3.0))

    output = model.train()(**inputs)
    shared = model.eval()(**inputs, num_items_in_batch=4 * plain.rows)
    whole = model(**inputs)
    (whole.loss - plain.loss).backward()

    assert plain.states is None
    assert output.states is not None
    assert whole.loss.item() == pytest.approx(plain.loss.item() + 3 * whole.states.item(), rel=1e-5)
    # One batch of four that are accumulated.
    assert shared.loss.item() == pytest.approx(whole.loss.item() / 4, rel=1e-5)
    assert all(part.grad.abs().sum() > 0 for part in model.states.map.parameters())
    assert student.get_input_embeddings().weight.grad.abs().sum() > 0
    weights = [*encoder._encoder.parameters()]
    assert weights
    assert not any(part.requires_grad or part.grad is not None for part in weights)
    assert not encoder._encoder.training
    owned = {id(part) for part in model.parameters()}
    assert not owned & {id(part) for part in weights}
    assert len([*model.parameters()]) == len([*student.parameters()]) + 2


def test_states_explain_all_none_or_too_little() -> None:
    torch.manual_seed(0)
    encoder = torch.randn(500, 8) + 100  # much that is the same for all words

    assert unexplained(encoder, encoder) == 0
    assert unexplained(encoder.mean(0).expand(500, 8), encoder) == pytest.approx(1, abs=0.01)
    half = encoder.clone()
    half[:, :4] = encoder.mean(0)[:4]
    assert unexplained(half, encoder) == pytest.approx(0.5, abs=0.05)
    torch.testing.assert_close(unexplained(7 * half, 7 * encoder), unexplained(half, encoder))
    for count in (0, 1):
        student = torch.ones(count, 8, requires_grad=True)
        unexplained(student, encoder[:count]).backward()
        assert student.grad is not None
        assert student.grad.abs().sum() == 0
    alike = encoder[:1].expand(3, 8)
    assert unexplained(alike * 1.01, alike).isfinite()


class StopError(Exception):
    pass


@pytest.mark.parametrize("online", [False, True])
def test_a_run_with_states_cut_off_in_training_ends_in_the_same_student(
    recipe_of: Recipes, town: Path, online: bool
) -> None:
    def made(out: str, *, workers: int = 0, **changes: object) -> Recipe:
        arguments = {"logging_steps": 1, "dataloader_num_workers": workers}
        return recipe_of(
            out=out, signals="signals", distil={"block_length": 32, "online": online},
            train={"steps": 4, "tokens": 256, "checkpoint_every": 2, "arguments": arguments}, **changes,
        )  # fmt: skip

    def stop(done: int, total: int, what: str) -> None:
        if what.startswith("training") and done == 3:
            raise StopError

    states = {"states": {"encoder": str(town / "uni"), "languages": ["qav"], "weight": 2.0}}
    whole = run(made("whole", **states))
    with pytest.raises(StopError):
        run(made("cut", **states), watch=stop)
    checkpoint = stages(made("cut", **states))["train"].checkpoints / "checkpoint-2"
    assert (checkpoint / "states" / "map.safetensors").is_file()

    resumed = run(made("cut", workers=1, **states))

    for name in ("model.safetensors", "config.json"):
        assert (resumed / name).read_bytes() == (whole / name).read_bytes()
    without = run(made("without"))
    assert (without / "model.safetensors").read_bytes() != (
        whole / "model.safetensors"
    ).read_bytes()
    assert _files(without) == _files(whole)
    log = json.loads((stages(made("whole", **states))["train"].place / "log.json").read_text())
    learned = [entry["states_qav"] for entry in log if "states_qav" in entry]
    assert learned
    assert not any("states_qag" in entry for entry in log)


def _files(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


@pytest.mark.parametrize(
    "changes",
    [
        {"distil": {"block_length": 64, "sampler": "random"}},
        {"distil": {"block_length": 64, "policy": "whole_word"}, "combine": {"likelihood": "words"}},
        {"record": {"precision": "bfloat16"}, "student": {"start": "carried", "layers": 1, "width": 32}},
    ],
    ids=["drawn", "words", "bfloat16"],
)  # fmt: skip
def test_states_go_with_every_kind_of_target(
    prose_recipe: Recipes, changes: Mapping[str, Any]
) -> None:
    recipe = prose_recipe(encoder="bytes", **changes)
    signals, encoder, words, student = _opened(recipe)
    inputs = batch_inputs(signals["en"], BATCH, recipe.distil, words["en"])

    output = DistillationLoss(student, recipe.distil, (), _term(encoder, student))(**inputs)

    output.loss.backward()
    assert output.states is not None
    assert 0 < output.states < 1e3
    assert student.get_input_embeddings().weight.grad.isfinite().all()


def test_the_card_and_the_run_name_the_encoder_and_how_many_words_it_has(
    prose_recipe: Recipes, encoders: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = prose_recipe(states={"encoder": str(encoders / "unigram"), "layer": 1})

    with caplog.at_level("INFO", logger="mergedistill"):
        student = run(recipe)

    card = (student / "README.md").read_text()
    share = re.search(
        r"states of words of `unigram` \(licence: mit; layer: 1; weight 1\), for these shares of the words: en ([\d.]+)%",
        card,
    )
    assert share
    assert float(share[1]) > 70
    noted = json.loads((student / "run.json").read_text())
    count = noted["states"]["en"]
    assert 100 * count["met"] / count["words"] == pytest.approx(float(share[1]), abs=0.05)
    assert noted["inputs"]["encoder"].keys() == {"unigram"}
    assert noted["recipe"]["states"]["encoder"] == "unigram"
    assert f"of {count['words']} words unigram has {count['met']}" in caplog.text


def test_without_states_stages_depend_on_what_they_did(
    recipe_of: Recipes, town: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digested: list[Any] = []
    whole = staging.digest_of_values
    monkeypatch.setattr(staging, "digest_of_values", lambda value: digested.append(value) or whole(value))  # fmt: skip
    plain = stages(recipe_of())
    assert digested
    assert "states" not in repr(digested)

    def keys(**states: object) -> dict[str, str]:
        recipe = recipe_of(states={"encoder": str(town / "uni"), **states})
        return {name: stage.key for name, stage in stages(recipe).items()}

    stated = keys()
    for name, stage in plain.items():
        assert (stated[name] == stage.key) == (name in ("rank", "vocabulary", "record")), name
    variants = [keys(layer=1), keys(weight=2.0), keys(languages=["qav"]), keys(encoder=str(town / "wp"))]  # fmt: skip
    assert len({stated["train"], *(variant["train"] for variant in variants)}) == 5
    assert all(variant["record"] == stated["record"] for variant in variants)


def test_variants_change_the_states_or_leave_them_out(recipe_of: Recipes, town: Path) -> None:
    recipe = recipe_of(states={"encoder": str(town / "uni")})

    lighter = altered(recipe, {"states.weight": 0.5}).states
    assert lighter is not None
    assert lighter.weight == 0.5
    assert altered(recipe, {"states": None}).states is None
    assert without_places(recipe)["states"]["encoder"] == "uni"
    assert {"states": None} in [variant.changes for variant in baselines(recipe)]
    assert "no encoder's states" not in [variant.name for variant in baselines(recipe_of())]


def test_a_plan_runs_the_encoder_and_says_how_many_words_it_has(prose_recipe: Recipes) -> None:
    recipe = prose_recipe()

    planned = plan(recipe)

    (english,) = planned.languages
    signals, _, words, _ = _opened(recipe)
    counts = count_words(signals, words, "unigram")["en"]
    # Of the text's beginning, which is all that the miniature reads.
    assert english.words_met == pytest.approx(counts["met"] / counts["words"], abs=0.05)
    console = Console(width=200)
    with console.capture() as printed:
        console.print(plan_table(planned))
    assert f"en: of its words {english.words_met:.1%} have states of the encoder." in printed.get()


@pytest.mark.parametrize(
    ("states", "sentence"),
    [
        ({"weight": 1.0}, "the key 'states.encoder' is missing"),
        ({"encoder": "e", "layers": 3}, "unknown key 'states.layers' (did you mean 'layer'?)"),
        ({"encoder": "e", "layer": "first"}, "states.layer: expected last or the number of a layer from 0, got 'first'"),
        ({"encoder": "e", "layer": -1}, "states.layer: expected last or the number of a layer from 0, got -1"),
        ({"encoder": "e", "layer": True}, "states.layer: expected last or the number of a layer from 0, got True"),
        ({"encoder": "e", "weight": 0}, "states.weight: input should be greater than 0, got 0"),
        ({"encoder": "e", "languages": ["qaw"]}, "states.languages: 'qaw' is not among the languages (did you mean"),
        ({"encoder": "e", "languages": ["qav", "qav"]}, "states.languages: 'qav' stands twice; once is enough"),
    ],
)  # fmt: skip
def test_what_states_cannot_be_is_refused(
    recipe_of: Recipes, states: dict[str, object], sentence: str
) -> None:
    with pytest.raises(RecipeError, match=re.escape(sentence)):
        recipe_of(states=states)


def test_an_encoder_that_does_not_serve_is_refused_before_anything_is_spent(
    recipe_of: Recipes, town: Path, tmp_path: Path
) -> None:
    def refused(kind: type[Exception], sentence: str, **states: object) -> None:
        recipe = recipe_of(states={"encoder": str(town / "uni"), **states})
        with pytest.raises(kind, match=sentence):
            run(recipe)
        assert not stages(recipe_of())["rank"].done

    def made(model: PreTrainedModel, name: str) -> dict[str, str]:
        model.save_pretrained(tmp_path / name)
        AutoTokenizer.from_pretrained(town / "uni").save_pretrained(tmp_path / name)
        return {"encoder": str(tmp_path / name)}

    sizes = {"vocab_size": 300, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_heads": 2}
    t5 = made(T5Model(T5Config(**sizes, num_layers=1)), "t5")
    pooled = FunnelConfig(vocab_size=300, block_sizes=[1, 1], d_model=16, n_head=2, d_head=8, d_inner=16)  # fmt: skip
    funnel = made(FunnelBaseModel(pooled), "funnel")
    albert = made(
        AlbertModel(AlbertConfig(vocab_size=300, hidden_size=16, embedding_size=8, num_attention_heads=2, intermediate_size=16)),
        "albert",
    )  # fmt: skip
    refused(StageError, "t5 is a 't5' model, which text alone is not enough for", **t5)
    refused(StageError, "funnel is a 'funnel' model, which has fewer states than tokens", **funnel)
    refused(
        StageError, "the layers of albert are one, used over and over; set last", **albert, layer=2
    )
    refused(TeacherError, "no architecture known here", **funnel, layer=1)
    refused(StageError, "states.layer is 3, but uni has only 2; set no more than that, or last", layer=3)  # fmt: skip
    refused(TeacherError, "nowhere", encoder=str(tmp_path / "nowhere"))


def test_an_encoder_that_shares_no_word_with_a_language_is_refused_by_its_name(
    prose_recipe: Recipes,
) -> None:
    with pytest.raises(StageError, match=r"^en: the encoder stranger has no word of its text.*states\.languages"):  # fmt: skip
        run(prose_recipe(encoder="stranger"), until="train")
