"""Finds the tokenizer in a folder or file, as transformers opens it.

transformers is asked, late, where there is no `tokenizer.json`, or where other files beside it say otherwise.
"""

import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import tokenizers

from vocabmerge.errors import VocabularyError
from vocabmerge.families.components import unfolded
from vocabmerge.tokenizer_file.json_file import read_json, read_text
from vocabmerge.tokenizer_file.library_form import open_library_form
from vocabmerge.tokenizer_file.vocabulary import Vocabulary, vocabulary_of

_ADVICE = (
    "convert it where its slow tokenizer works, with "
    "AutoTokenizer.from_pretrained(folder).save_pretrained(folder), and pass a folder with tokenizer.json"
)
_AS_THE_FILE_SAYS = ("PreTrainedTokenizerFast", "TokenizersBackend")
_OF_BERT = {
    "lowercase": ("do_lower_case", True),
    "strip_accents": ("strip_accents", None),
    "handle_chinese_chars": ("tokenize_chinese_chars", True),
}  # the setting, and its default, of which transformers' class makes each part of the normalizer, whatever the file says


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
        if file.name == "tokenizer.json" and _is_changed(form, folder, config):
            asked = _opened_by_transformers(file, folder.iterdir())
            opened, form = open_library_form(asked.backend_tokenizer.to_str(), name=name)
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


def _is_changed(form: Mapping[str, Any], folder: Path, config: Mapping[str, Any]) -> bool:
    """Whether transformers makes another tokenizer than a folder's `tokenizer.json` because of the files beside it.

    It adds the tokens of `added_tokens_decoder` (of older folders: `added_tokens.json`) with the flags stated there, and
    classes such as BERT's make the normalizer of their own settings.
    """
    if _has_own_code(config) or not _states_class(config, folder):
        return False  # transformers runs the code, which is not run here, or opens nothing
    if _other_tokens(form, folder, config):
        return True
    made_by_class = config.get("tokenizer_class") not in _AS_THE_FILE_SAYS
    return made_by_class and _other_normalizer(form, config)


def _states_class(config: Mapping[str, Any], folder: Path) -> bool:
    """Whether transformers can tell the class of a folder's tokenizer: stated, or that of the model's kind."""
    return "tokenizer_class" in config or (folder / "config.json").is_file()


def _has_own_code(config: Mapping[str, Any]) -> bool:
    """Whether a tokenizer comes with code of its own; an older list in `auto_map` means a tokenizer's."""
    code = config.get("auto_map")
    return isinstance(code, list) or (isinstance(code, Mapping) and "AutoTokenizer" in code)


def _other_tokens(form: Mapping[str, Any], folder: Path, config: Mapping[str, Any]) -> bool:
    known = {token["content"]: token for token in form["added_tokens"]}
    decoder = config.get("added_tokens_decoder")
    if isinstance(decoder, Mapping):
        for token in decoder.values():
            if not isinstance(token, Mapping) or not isinstance(token.get("content"), str):
                raise VocabularyError(
                    f"{folder / 'tokenizer_config.json'}: added_tokens_decoder: expected each token with its content and flags, got "
                    f"{token!r}; fetch or save the tokenizer again"
                )
        tokens = decoder.values()
        return any(_flagged(token) != _flagged(known.get(token["content"], {})) for token in tokens)
    file = folder / "added_tokens.json"
    added = read_json(file) if file.is_file() else {}
    return any(known.get(content, {}).get("id") != number for content, number in added.items())


def _flagged(token: Mapping[str, Any]) -> str:
    """A token with all its flags, as the library spells it."""
    return repr(tokenizers.AddedToken(**{name: value for name, value in token.items() if name not in ("id", "__type")}))  # fmt: skip


def _other_normalizer(form: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    parts = {part["type"]: part for part in unfolded(form.get("normalizer"))}
    if bert := parts.get("BertNormalizer"):
        return any(bert[part] != config.get(*stated) for part, stated in _OF_BERT.items())
    return bool(config.get("do_lower_case", "Lowercase" in parts)) != ("Lowercase" in parts)


def _convert(path: Path, folder: Path, config: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Let transformers make the fast form of a tokenizer that has only its older files."""
    sources = (
        [path] if path.is_file() else sorted([*folder.glob("vocab.*"), *folder.glob("*.model")])
    )
    if not sources:
        raise VocabularyError(
            f"{path}: no tokenizer.json, vocab.txt or sentencepiece model in it; {_ADVICE}"
        )
    if _has_own_code(config):
        raise VocabularyError(
            f"{path}: a tokenizer that comes with code of its own, which is not run here; {_ADVICE}"
        )
    default = None
    if not _states_class(config, folder):
        if sources[0].name != "vocab.txt":
            raise VocabularyError(
                f"{sources[0]}: its tokenizer class is unknown; put the tokenizer_config.json with "
                "tokenizer_class beside it"
            )
        cased = any(line[:1].isupper() for line in sources[0].read_text("utf-8").splitlines())
        default = config = {"tokenizer_class": "BertTokenizer", "do_lower_case": not cased, **config}  # fmt: skip
    files = [*folder.iterdir()]
    if path.is_file():
        files = [file for file in files if file.suffix == ".json" and file.name != "tokenizer.json"]
        files.append(path)
    converted = _opened_by_transformers(path, files, config=default)
    return converted.backend_tokenizer.to_str(), {
        **config,
        **{
            key: str(token)
            for key, token in converted.special_tokens_map.items()
            if isinstance(token, str)
        },
    }


def _opened_by_transformers(
    path: Path, files: Iterable[Path], *, config: Mapping[str, Any] | None = None
) -> Any:
    """The fast tokenizer that transformers makes of copies of some files, and of a `tokenizer_config.json` if given."""
    try:
        from transformers import AutoTokenizer  # 3 s and torch: only here
    except ImportError as error:
        raise VocabularyError(
            f"{path}: reading it needs transformers; pip install 'vocabmerge[models]', or pass tokenizer.json with no other file "
            "beside it"
        ) from error
    with tempfile.TemporaryDirectory() as temporary:
        for file in files:
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
    return converted
