"""Makes a trimmed model of its base and a patch: the bytes of the trim that wrote the patch."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vocabmerge.encoder_folder.layout import read_layout
from vocabmerge.errors import VocabularyError
from vocabmerge.hub.fetch import local_files, model_folder
from vocabmerge.output_folder import new_folder, refuse_taken
from vocabmerge.patch_file import Patch, digests, read_patch
from vocabmerge.progress import ProgressCallback, no_progress
from vocabmerge.trim.folder import REPORT, vocabulary_in, write_cut
from vocabmerge.trim.report import library_versions
from vocabmerge.trim.trim import CutVocabulary


def apply_patch(
    base: str | Path,
    patch: str | Path,
    out: str | Path,
    *,
    revision: str | None = None,
    watch: ProgressCallback = no_progress,
) -> dict[str, Any]:
    """Make the folder that `trim` made when it wrote a patch, byte for byte.

    Every file of the base that the trim read is compared by its SHA-256 before, and every file of the folder after.

    Args:
        base: the folder that was trimmed, or `OWNER/NAME` on the Hugging Face Hub.
        patch: what `trim(..., patch=FILE)` wrote.
        out: the folder to make; must not exist, or be empty.
        revision: branch, tag or commit of a base on the Hub.
        watch: told what is going on.

    Returns:
        The report of the trim.

    Raises:
        VocabularyError: a damaged patch, another base (with the file that differs), or a library whose version writes
            other bytes.

    Example:
        >>> from pathlib import Path
        >>> from transformers import BertConfig, BertModel
        >>> BertModel(BertConfig(vocab_size=4, hidden_size=4, num_attention_heads=1, num_hidden_layers=1,
        ...                      intermediate_size=4)).save_pretrained("model")
        >>> open_tokenizer({"added_tokens": [], "model": {"type": "WordPiece", "unk_token": "[UNK]",
        ...     "continuing_subword_prefix": "##", "max_input_chars_per_word": 9,
        ...     "vocab": {"[UNK]": 0, "a": 1, "ab": 2, "abb": 3}}}, name="tiny").save("model/tokenizer.json")
        >>> _ = Path("en.txt").write_text("a ab")
        >>> report = trim("model", {"en": "en.txt"}, "small", patch="small.patch")
        >>> apply_patch("model", "small.patch", "again") == report
        True
        >>> all(file.read_bytes() == Path("again", file.relative_to("small")).read_bytes()
        ...     for file in Path("small").rglob("*") if file.is_file())
        True
    """
    out = Path(out)
    refuse_taken(out)
    read = read_patch(Path(patch))
    folder = model_folder(base, revision=revision)
    watch(0, None, "base compared")
    _refuse_other_base(folder, read, patch_file=patch)
    layout = read_layout(folder)
    vocabulary = vocabulary_in(layout, name=read.name)
    if read.kept[-1] >= len(vocabulary):
        raise VocabularyError(
            f"{patch}: the patch contradicts itself (it keeps id {read.kept[-1]} of {len(vocabulary)}); fetch it again"
        )
    cut = CutVocabulary(before=vocabulary, kept=read.kept, tokenizer=read.tokenizer)
    with new_folder(out) as made:
        watch(0, None, "model written")
        write_cut(layout, cut, made)
        for name, text in read.texts.items():
            (made / name).write_text(text, encoding="utf-8")
        for name in set(local_files(made)) - set(read.made):
            (
                made / name
            ).unlink()  # the base has more side files here than where the patch was made
        _refuse_other_bytes(made, read, patch_file=patch)
    report: dict[str, Any] = json.loads(read.texts[REPORT])
    return report


def _refuse_other_base(folder: Path, patch: Patch, *, patch_file: str | Path) -> None:
    missing = next((name for name in patch.base if not (folder / name).is_file()), None)
    if missing is not None:
        raise VocabularyError(
            f"{folder}: not the base of {patch_file}: it has no {missing}; name the model that was trimmed, with its --revision"
        )
    differs = _first_difference(digests(folder, patch.base), patch.base)
    if differs is not None:
        raise VocabularyError(
            f"{folder}: not the base of {patch_file}: its {differs} is another one; name the model that was trimmed, with "
            "its --revision"
        )


def _refuse_other_bytes(folder: Path, patch: Patch, *, patch_file: str | Path) -> None:
    differs = _first_difference(digests(folder, local_files(folder)), patch.made)
    if differs is not None:
        made, here = (
            ", ".join(f"{library} {version}" for library, version in versions.items())
            for versions in (patch.versions, library_versions())
        )
        raise VocabularyError(
            f"{patch_file}: {differs} comes out otherwise than in the trim; the patch was made with {made}, here are {here}: "
            "install those, or trim again"
        )


def _first_difference(got: Mapping[str, str], expected: Mapping[str, str]) -> str | None:
    return next(
        (name for name in sorted({*got, *expected}) if got.get(name) != expected.get(name)), None
    )
