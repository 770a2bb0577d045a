"""Finds the tokenizer in a folder or file; transformers is asked, late, only where there is no `tokenizer.json`."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import tokenizers

from vocabmerge.errors import VocabularyError
from vocabmerge.tokenizer_file.json_file import read_json, read_text
from vocabmerge.tokenizer_file.library_form import open_library_form
from vocabmerge.tokenizer_file.vocabulary import Vocabulary, vocabulary_of

_ADVICE = (
    "convert it where its slow tokenizer works, with "
    "AutoTokenizer.from_pretrained(folder).save_pretrained(folder), and pass a folder with tokenizer.json"
)


def read_vocabulary(path: str | Path, *, name: str | None = None) -> Vocabulary:
    """Read a tokenizer from a model folder, a `tokenizer.json`, a `vocab.txt` or a sentencepiece model.

    Args:
        path: the folder or file.
        name: how messages and reports call it; by default the folder's name.

    Returns:
        Its vocabulary.

    Raises:
        VocabularyError: nothing readable there, or a slow tokenizer that has no fast form.

    Example:
        >>> open_tokenizer({"model": {"type": "WordLevel", "vocab": {"?": 0, "a": 1}, "unk_token": "?"}},
        ...                name="tiny").save("tokenizer.json")
        >>> read_vocabulary("tokenizer.json", name="tiny")[1].text
        'a'
    """
    return open_vocabulary(path, name=name)[0]


def open_vocabulary(
    path: str | Path, *, name: str | None = None
) -> tuple[Vocabulary, tokenizers.Tokenizer]:
    """The same as `read_vocabulary`, and its `Vocabulary.segmenter()`, which reading it has opened anyway."""
    path = Path(path)
    if not path.exists():
        raise VocabularyError(f"{path}: no such file or folder; nothing is downloaded here")
    folder = path if path.is_dir() else path.parent
    name = name or (path.name if path.is_dir() else folder.resolve().name)
    config = _read_config(folder)
    file = path / "tokenizer.json" if path.is_dir() else path
    if file.suffix == ".json" and file.is_file():
        opened, form = open_library_form(read_text(file), name=str(file))
    else:
        tokenizer, config = _convert(path, folder, config)
        opened, form = open_library_form(tokenizer, name=name)
    return vocabulary_of(form, name=name, config=config), opened


def _read_config(folder: Path) -> dict[str, Any]:
    """The settings of a tokenizer as transformers puts them together, in the form of `tokenizer_config.json` alone.

    Older folders have `special_tokens_map.json`, which goes before `tokenizer_config.json` unless that lists all added
    tokens. Its tokens with flags (a mask that swallows the space before it) need the mark that they have in the other file.
    """
    config_file, specials_file = folder / "tokenizer_config.json", folder / "special_tokens_map.json"  # fmt: skip
    config = read_json(config_file) if config_file.is_file() else {}
    if specials_file.is_file() and "added_tokens_decoder" not in config:
        config |= {name: _marked(token) for name, token in read_json(specials_file).items()}
    return config


def _marked(token: Any) -> Any:
    if isinstance(token, list):
        return [_marked(one) for one in token]
    if isinstance(token, dict) and "content" in token:
        return {**token, "special": True, "__type": "AddedToken"}
    return token


def _convert(path: Path, folder: Path, config: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Let transformers make the fast form of a tokenizer that has only its older files."""
    sources = (
        [path] if path.is_file() else sorted([*folder.glob("vocab.*"), *folder.glob("*.model")])
    )
    if not sources:
        raise VocabularyError(
            f"{path}: no tokenizer.json, vocab.txt or sentencepiece model in it; {_ADVICE}"
        )
    if "AutoTokenizer" in (config.get("auto_map") or {}):
        raise VocabularyError(
            f"{path}: a tokenizer that comes with code of its own, which is not run here; {_ADVICE}"
        )
    if not config and not (folder / "config.json").is_file():
        if sources[0].name != "vocab.txt":
            raise VocabularyError(
                f"{sources[0]}: its tokenizer class is unknown; put the tokenizer_config.json with "
                "tokenizer_class beside it"
            )
        cased = any(line[:1].isupper() for line in sources[0].read_text("utf-8").splitlines())
        config = {"tokenizer_class": "BertTokenizer", "do_lower_case": not cased}
    try:
        from transformers import AutoTokenizer  # 3 s and torch: only here
    except ImportError as error:
        raise VocabularyError(
            f"{path}: reading {sources[0].name} needs transformers; pip install 'vocabmerge[models]', or pass tokenizer.json"
        ) from error
    with tempfile.TemporaryDirectory() as temporary:
        for file in folder.iterdir() if path.is_dir() else (*folder.glob("*config.json"), path):
            if file.is_file() and file.suffix in (".json", ".txt", ".model"):
                shutil.copy(file, temporary)
        if config:
            Path(temporary, "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
        try:
            converted = AutoTokenizer.from_pretrained(
                temporary, local_files_only=True, trust_remote_code=False
            )
        except (ValueError, OSError, ImportError, TypeError, AttributeError, KeyError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise VocabularyError(
                f"{path}: transformers makes no fast tokenizer of it ({reason}); {_ADVICE}"
            ) from error
    if not getattr(converted, "is_fast", False):
        raise VocabularyError(
            f"{path}: {type(converted).__name__} is slow-only and has no tokenizer.json to work on; {_ADVICE}"
        )
    return converted.backend_tokenizer.to_str(), {
        **config,
        **{
            key: str(token)
            for key, token in converted.special_tokens_map.items()
            if isinstance(token, str)
        },
    }
