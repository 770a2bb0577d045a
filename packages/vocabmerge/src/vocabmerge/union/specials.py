"""The special tokens of the union, and which of a teacher's tokens plays which part."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from vocabmerge.tokenizer_file.vocabulary import Vocabulary

Convention = Literal["bert", "roberta"]


@dataclass(frozen=True, kw_only=True)
class SpecialTokens:
    """The special tokens of a convention, in id order from 0; RoBERTa's `<pad>` stays 1, where its position offset expects it."""

    tokens: Mapping[str, str]
    pair: tuple[str, ...]

    @property
    def ids(self) -> dict[str, int]:
        """The id of each token."""
        return {token: number for number, token in enumerate(self.tokens.values())}


CONVENTIONS: Mapping[Convention, SpecialTokens] = {
    "bert": SpecialTokens(
        tokens={
            "pad": "[PAD]",
            "unk": "[UNK]",
            "cls": "[CLS]",
            "sep": "[SEP]",
            "mask": "[MASK]",
        },
        pair=("cls", "A:0", "sep", "B:1", "sep:1"),
    ),
    "roberta": SpecialTokens(
        tokens={"cls": "<s>", "pad": "<pad>", "sep": "</s>", "unk": "<unk>", "mask": "<mask>"},
        pair=("cls", "A:0", "sep", "sep", "B:0", "sep"),
    ),
}
# A token with several roles plays the first of these; what begins a text is its cls, what ends it its sep.
_PARTS = (
    ("mask", "mask"),
    ("pad", "pad"),
    ("cls", "cls"),
    ("sep", "sep"),
    ("eos", "sep"),
    ("bos", "cls"),
    ("unk", "unk"),
)


def unified_specials(teacher: Vocabulary, convention: Convention) -> dict[str, str]:
    """The union's name for each of the teacher's special tokens that has a part in the convention."""
    tokens = CONVENTIONS[convention].tokens
    renamed: dict[str, str] = {}
    for role, part in _PARTS:
        token = teacher.specials.get(role)
        if token is not None and token not in renamed and tokens[part] not in renamed.values():
            renamed[token] = tokens[part]
    return renamed


def template(convention: Convention) -> dict[str, Any]:
    """The post-processor that wraps one text or a pair."""
    special = CONVENTIONS[convention]
    ids = special.ids

    def step(part: str) -> dict[str, Any]:
        role, _, kind = part.partition(":")
        if role in ("A", "B"):
            return {"Sequence": {"id": role, "type_id": int(kind)}}
        return {"SpecialToken": {"id": special.tokens[role], "type_id": int(kind or 0)}}

    used = (special.tokens["cls"], special.tokens["sep"])
    return {
        "type": "TemplateProcessing",
        "single": [step("cls"), step("A:0"), step("sep")],
        "pair": [step(part) for part in special.pair],
        "special_tokens": {
            token: {"id": token, "ids": [ids[token]], "tokens": [token]} for token in used
        },
    }


def tokenizer_config(convention: Convention, max_length: int | None) -> dict[str, Any]:
    """The `tokenizer_config.json` that lets AutoTokenizer open `tokenizer.json` as it stands."""
    tokens = CONVENTIONS[convention].tokens
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        **{f"{role}_token": token for role, token in tokens.items()},
    }
    if convention == "roberta":
        config |= {"bos_token": tokens["cls"], "eos_token": tokens["sep"]}
    if max_length is not None:
        config["model_max_length"] = max_length
    return config
