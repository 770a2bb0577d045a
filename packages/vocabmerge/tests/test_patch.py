"""A trim as a patch: the base and the patch make the bytes of the whole trim."""

import json
import lzma
import shutil

import pytest
import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules
from typer.testing import CliRunner

from vocabmerge import VocabularyError, apply_patch, trim
from vocabmerge.cli.app import app
from vocabmerge.hub.fetch import local_files
from vocabmerge.patch_file import FORMAT


@pytest.fixture(scope="module")
def world(tmp_path_factory, trained, lines_of):
    """A sentence encoder that sentence-transformers wrote, its trim, and the trim's patch."""
    folder = tmp_path_factory.mktemp("world")
    vocabulary = trained("wordpiece", "aa")
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=vocabulary.segmenter(),
        unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]",
    )  # fmt: skip
    made.save_pretrained(folder / "bert")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=64,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(folder / "bert")
    encoder = modules.Transformer(str(folder / "bert"))
    parts = [encoder, modules.Pooling(16), modules.Dense(16, 8), modules.Normalize()]
    model = SentenceTransformer(modules=parts, prompts={"query": "ask "}, device="cpu")
    model.save(str(folder / "base"))
    readme = "---\nlicense: mit\n---\nof the whole model, in 2 languages"
    (folder / "base" / "README.md").write_text(readme)
    (folder / "base" / "LICENSE").write_text("as it is")
    (folder / "aa.txt").write_text("\n".join(lines_of("aa", 120)))
    report = trim(
        folder / "base",
        {"aa": folder / "aa.txt"},
        folder / "small",
        top=200,
        patch=folder / "small.patch",
        name="someone/small",
    )
    return folder, report


@pytest.fixture
def base(world, tmp_path):
    """A copy of the base, to be spoilt."""
    return shutil.copytree(world[0] / "base", tmp_path / "base")


def same_bytes(one, other):
    assert local_files(one) == local_files(other)
    for name in local_files(one):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def test_base_and_patch_make_the_bytes_of_the_whole_trim(world, base, tmp_path):
    folder, report = world
    (base / ".gitattributes").write_text("hidden")
    (base / "README.md").write_text("another card")
    (base / "notes.txt").write_text("of the user's own")

    again = apply_patch(base, folder / "small.patch", tmp_path / "again")

    assert again == report
    same_bytes(folder / "small", tmp_path / "again")
    assert {"README.md", "LICENSE", "report.json", "maps/base.safetensors"} <= {
        *local_files(tmp_path / "again")
    }
    line = (folder / "aa.txt").read_text().splitlines()[0]
    vector = SentenceTransformer(str(tmp_path / "again"), device="cpu").encode(line)
    assert vector.shape == (8,)


def test_a_patch_alone_is_the_patch_beside_a_folder(world, tmp_path):
    folder, _ = world
    options = {"top": 200, "name": "someone/small"}
    trim(folder / "base", {"aa": folder / "aa.txt"}, patch=tmp_path / "p", **options)
    assert (tmp_path / "p").read_bytes() == (folder / "small.patch").read_bytes()
    assert [file.name for file in tmp_path.iterdir()] == ["p"]


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json", "2_Dense/config.json", "LICENSE"])  # fmt: skip
def test_another_base_is_refused_with_the_file_that_differs(name, world, base, tmp_path):
    patch = world[0] / "small.patch"
    content = bytearray((base / name).read_bytes())
    content[-3] ^= 1
    (base / name).write_bytes(content)
    with pytest.raises(VocabularyError, match=f"not the base of .*: its {name} is another one"):
        apply_patch(base, patch, tmp_path / "out")
    (base / name).unlink()
    with pytest.raises(VocabularyError, match=f"not the base of .*: it has no {name}"):
        apply_patch(base, patch, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def damaged(packed):
    """Ways in which a file is not the patch it was."""
    content = json.loads(lzma.decompress(packed))
    flipped = bytearray(packed)
    flipped[len(packed) // 2] ^= 1

    def with_(**changes):
        return lzma.compress(json.dumps({**content, **changes}).encode())

    return {
        "empty": b"",
        "cut off": packed[: len(packed) // 2],
        "a bit flipped": bytes(flipped),
        "longer": packed + b"more",
        "no xz": b"a patch",
        "no JSON": lzma.compress(b"a patch"),
        "a list": lzma.compress(b"[1]"),
        "another format": with_(format="vocabmerge-patch/9"),
        "no ids": with_(kept=[]),
        "ids in no order": with_(kept=[3, 0]),
        "ids beyond the base": with_(kept=[0, 10**6]),
        "no tokenizer": with_(tokenizer=None),
        "a file elsewhere": with_(texts={"../README.md": "x"}),
        "other results": with_(made={**content["made"], "config.json": "0"}),
    }


@pytest.mark.parametrize("way", damaged(lzma.compress(b'{"made": {}}')))
def test_a_damaged_patch_is_refused_in_one_sentence(way, world, tmp_path):
    folder, _ = world
    (tmp_path / "bad").write_bytes(damaged((folder / "small.patch").read_bytes())[way])
    with pytest.raises(VocabularyError) as caught:
        apply_patch(folder / "base", tmp_path / "bad", tmp_path / "out")
    assert "bad" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["bad"]


def test_the_command_applies_and_refuses(world, tmp_path):
    folder, report = world
    arguments = ["apply", str(folder / "base"), str(folder / "small.patch"), "--quiet"]

    done = CliRunner().invoke(app, [*arguments, "-o", str(tmp_path / "out"), "--json"])
    taken = CliRunner().invoke(app, [*arguments, "-o", str(tmp_path / "out")])
    nowhere = CliRunner().invoke(
        app, ["apply", "some/model", "no.patch", "-o", str(tmp_path / "o")]
    )

    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout) == report
    assert (taken.exit_code, nowhere.exit_code) == (2, 2)
    assert "expected a new or empty folder" in taken.stderr
    assert "no.patch: no such patch" in nowhere.stderr
    assert FORMAT == "vocabmerge-patch/1"
