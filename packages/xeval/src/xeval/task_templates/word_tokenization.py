"""Words to sub-words, so that every word of a sentence is scored whatever the tokenizer and however long it is."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from xeval.errors import XevalError

_UNLIMITED = 1_000_000


@dataclass(slots=True)
class Encoded:
    """One example as the model sees it: one or more rows of sub-words, and what its labels need.

    Args:
        rows: input ids, special tokens included.
        word_pieces: for tasks on words: of each word (row, first position, number of pieces), without a piece before it
            that is nothing but the space.
        types: token types of the rows, where the tokenizer has them.
        labels: gold labels as the head takes them; empty when scoring.
        extra: what else the task needs to turn outputs into a prediction.
    """

    rows: list[list[int]]
    word_pieces: list[tuple[int, int, int]] = field(default_factory=list)
    types: list[list[int]] | None = None
    labels: list[Any] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def length(self) -> int:
        """Sub-words of the longest row."""
        return max(len(row) for row in self.rows)


class Pieces:
    """A tokenizer, with the special tokens it puts around a text and the longest row the model takes.

    Each word is segmented by itself, as after a space, so that a word is one run of sub-words in every tokenizer. Where
    the space comes out as a sub-word of its own, as XLM-R's does before most Chinese words and every comma, it stays in the
    row but does not stand for the word. A word that the tokenizer makes nothing of becomes its unknown token. A sentence
    that is too long for one row goes on in the next; a single word that is too long for a row is represented by its first
    sub-words.

    Args:
        tokenizer: of transformers.
        limit: sub-words per row, special tokens included.
    """

    def __init__(self, tokenizer: Any, limit: int) -> None:
        self.tokenizer = tokenizer
        self.limit = min(limit, tokenizer.model_max_length or _UNLIMITED)
        whole = list(tokenizer("x")["input_ids"])
        bare = list(tokenizer("x", add_special_tokens=False)["input_ids"])
        start = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), len(whole))
        self.before, self.after = whole[:start], whole[start + len(bare) :]
        self.room = self.limit - len(self.before) - len(self.after)
        if not bare or self.room < 2:
            raise XevalError(
                f"the tokenizer leaves room for {self.room} sub-words in a row of {self.limit}, expected at least 2; raise max_length"
            )
        self._known: dict[str, tuple[list[int], int]] = {}
        self._blank: dict[int, bool] = {}

    @property
    def pad_id(self) -> int:
        """What fills short rows."""
        pad = self.tokenizer.pad_token_id
        return 0 if pad is None else int(pad)

    def encode_words(self, sentences: Sequence[Sequence[str]]) -> list[Encoded]:
        """Encode sentences that are given as words. Every word has at least one sub-word in exactly one row."""
        self._learn({word for sentence in sentences for word in sentence} - self._known.keys())
        return [self._rows(sentence) for sentence in sentences]

    def _learn(self, words: set[str]) -> None:
        if not words:
            return
        ordered = sorted(words)
        ids = self.tokenizer([" " + word for word in ordered], add_special_tokens=False)
        for word, pieces in zip(ordered, ids["input_ids"], strict=True):
            kept = list(pieces)[: self.room] or [self._nothing()]
            self._known[word] = kept, self._spaces_before(kept)

    def _spaces_before(self, pieces: Sequence[int]) -> int:
        """How many pieces hold nothing but space before the first that holds more; 0 where none does."""
        for number, piece in enumerate(pieces):
            if piece not in self._blank:
                self._blank[piece] = not self.tokenizer.decode([piece]).strip()
            if not self._blank[piece]:
                return number
        return 0

    def _nothing(self) -> int:
        for name in ("unk_token_id", "mask_token_id", "pad_token_id"):
            if (token := getattr(self.tokenizer, name)) is not None:
                return int(token)
        raise XevalError("the tokenizer has neither an unknown, nor a mask, nor a padding token")

    def _rows(self, sentence: Sequence[str]) -> Encoded:
        rows: list[list[int]] = []
        word_pieces = []
        current = list(self.before)
        for word in sentence:
            pieces, spaces = self._known[word]
            if len(current) - len(self.before) + len(pieces) > self.room:
                rows.append(current + self.after)
                current = list(self.before)
            word_pieces.append((len(rows), len(current) + spaces, len(pieces) - spaces))
            current.extend(pieces)
        rows.append(current + self.after)
        return Encoded(rows=rows, word_pieces=word_pieces)

    def encode_texts(
        self, texts: Sequence[str], seconds: Sequence[str] | None = None
    ) -> tuple[list[Encoded], int]:
        """Encode texts or pairs of texts into one row each.

        Returns:
            The rows, and how many had to be cut to the limit.
        """
        tokenized = self.tokenizer(list(texts), list(seconds) if seconds is not None else None)
        longest = [len(ids) for ids in tokenized["input_ids"]]
        cut = sum(length > self.limit for length in longest)
        if cut:
            tokenized = self.tokenizer(
                list(texts),
                list(seconds) if seconds is not None else None,
                truncation=True,
                max_length=self.limit,
            )
        types = tokenized.get("token_type_ids")
        return [
            Encoded(rows=[list(ids)], types=[list(types[i])] if types is not None else None)
            for i, ids in enumerate(tokenized["input_ids"])
        ], cut
