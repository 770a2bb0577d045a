"""Warns of a text that is not in the script of its language, or that the vocabulary cannot spell."""

import re
from collections.abc import Mapping

from fontTools import unicodedata as scripts_of_unicode

EXPECTED_SHARE = 0.5
"""The share of a text's letters that the scripts of its language have at least."""
UNKNOWN_SHARE = 0.05
"""Unknown tokens per word from which a vocabulary does not know the text's language; its own has next to none."""

_LANGUAGES = {  # ISO 15924: codes of ISO 639-1 and 639-3
    "Latn": "af afr ast az aze azj bam bm br bre bs bos ca cat ceb cs ces cy cym da dan de deu ee ewe en eng eo epo es spa "
    "et est ekk eu eus ext ff fi fin fil fo fao fr fra fy fry ga gle gd gla gl glg gn grn ha hau haw hr hrv ht hat hu hun "
    "id ind ig ibo is isl it ita jv jav kin rw kri ku kmr la lat lb ltz lg lug li lim lin ln lt lit lv lav lvs mg mlg plt mi "
    "mri mlt mt ms msa zsm nb nob nl nld nn nno no nor nso ny nya oc oci om orm pcm pl pol pt por qu que rm roh rn run ro "
    "ron sco sk slk sl slv sm smo sn sna so som sq sqi als ss ssw st sot su sun sv swe sw swa swh tl tgl tn tsn to ton tr "
    "tur ts tso tw twi uz uzb vi vie wo wol xh xho yo yor zu zul",
    "Cyrl": "ba bak be bel bg bul ce che chv cv kk kaz ky kir mk mkd mn mon khk os oss ru rus sah tat tg tgk tt uk ukr",
    "Grek": "el ell grc",
    "Arab": "ar ara arb ary arz apc ckb fa fas pes pnb prs ps pus pbt sd snd ug uig ur urd",
    "Hebr": "he heb yi yid ydd",
    "Deva": "awa bho bh hi hin kok mag mai mar mr ne nep npi sa san",
    "Beng": "as asm bn ben",
    "Guru": "pa pan",
    "Gujr": "gu guj",
    "Orya": "or ori ory",
    "Taml": "ta tam",
    "Telu": "te tel",
    "Knda": "kn kan",
    "Mlym": "ml mal",
    "Sinh": "si sin",
    "Thai": "th tha",
    "Laoo": "lo lao",
    "Tibt": "bo bod dz dzo",
    "Mymr": "my mya shn",
    "Geor": "ka kat",
    "Armn": "hy hye",
    "Ethi": "am amh ti tir",
    "Khmr": "km khm",
    "Hang Hani": "ko kor",
    "Hani Hira Kana": "ja jpn",
    "Hani": "zh zho cmn yue wuu",
    "Latn Cyrl": "sr srp",
}
_SCRIPTS_OF = {code: scripts for scripts, codes in _LANGUAGES.items() for code in codes.split()}
_PARTS = {"Hans": "Hani", "Hant": "Hani", "Jpan": "Hani Hira Kana", "Kore": "Hang Hani"}


def expected_scripts(language: str) -> frozenset[str]:
    """The scripts that a language is written in, empty where that is not known here.

    Args:
        language: a code such as `sw`, `swh`, `pt-BR`, or one that names its script, such as `srp_Cyrl`.

    Example:
        >>> sorted(expected_scripts("ja")), sorted(expected_scripts("sr-Latn")), sorted(expected_scripts("tlh"))
        (['Han', 'Hiragana', 'Katakana'], ['Latin'], [])
    """
    first, *parts = re.split(r"[-_]", language)
    named = next((part.title() for part in parts if len(part) == 4 and part.isalpha()), None)
    codes = _SCRIPTS_OF.get(first.lower(), "") if named is None else _PARTS.get(named, named)
    return frozenset(_name(code) for code in codes.split())


def text_warnings(
    language: str, scripts: Mapping[str, float], *, unknown: int, words: int
) -> list[str]:
    """Signs that a text is not in the language that it stands for, one sentence each.

    Args:
        language: its code.
        scripts: the share of each script among the text's letters.
        unknown: how many tokens of the text are unknown to the vocabulary.
        words: how many words the text has.

    Returns:
        Sentences; empty where nothing is suspicious.

    Example:
        >>> text_warnings("sw", {"Cyrillic": 0.98, "Latin": 0.02}, unknown=0, words=9)
        ['sw: 98% of the letters are Cyrillic, where Latin is expected; is the text in that language?']
    """
    warnings = []
    expected = expected_scripts(language)
    share = sum(scripts.get(script, 0.0) for script in expected)
    if expected and scripts and share < EXPECTED_SHARE:
        most = max(scripts, key=lambda script: scripts[script])
        warnings.append(
            f"{language}: {scripts[most]:.0%} of the letters are {most}, where {' or '.join(sorted(expected))} is expected; "
            "is the text in that language?"
        )
    if unknown > UNKNOWN_SHARE * words:
        warnings.append(
            f"{language}: the vocabulary has no piece for {unknown:,} tokens in {words:,} words; is the model made for "
            "that language and script?"
        )
    return warnings


def _name(code: str) -> str:
    return str(scripts_of_unicode.script_name(code, default=code))
