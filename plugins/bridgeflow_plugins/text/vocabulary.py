"""Words as tokens: splitting a text so that it can be put together again, and the numbers of the words."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

PAD = "<pad>"
UNKNOWN = "<unk>"
PAD_ID = 0
UNKNOWN_ID = 1
JOINED = "##"
"""Prefix of a token that follows its neighbour without a space, as in WordPiece."""

_WORD_OR_MARK = re.compile(r"\w+|[^\w\s]")


def normalise(text: str) -> str:
    """Lower case, Unicode NFC, single spaces: what remains of a text in word tokens."""
    return " ".join(unicodedata.normalize("NFC", text.lower()).split())


def tokenise(text: str) -> list[str]:
    """Words and single punctuation marks of a text, such that `detokenise(tokenise(x)) == normalise(x)`.

    A token without a space before it carries the prefix `##`: "a dog's, too" gives
    a, dog, ##', ##s, ##,, too. Since marks stand alone, no token of a text can be mistaken for a prefixed
    one, for `<pad>` or for `<unk>`.
    """
    tokens: list[str] = []
    for chunk in normalise(text).split(" "):
        pieces = _WORD_OR_MARK.findall(chunk)
        tokens += pieces[:1]
        tokens += [JOINED + piece for piece in pieces[1:]]
    return tokens


def detokenise(tokens: Iterable[str]) -> str:
    """The text of tokens: a space before each but the first and those with the prefix `##`."""
    text = ""
    for token in tokens:
        if token.startswith(JOINED) and len(token) > len(JOINED):
            text += token[len(JOINED) :]
        else:
            text += f" {token}" if text else token
    return text


@dataclass(frozen=True)
class Vocabulary:
    """The numbers of word tokens: 0 is `<pad>`, which also ends a text, and 1 is `<unk>`."""

    words: tuple[str, ...]
    """Tokens by number, `<pad>` and `<unk>` first."""
    _numbers: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.words[:2] != (PAD, UNKNOWN):
            raise ValueError(f"a vocabulary starts with {PAD} and {UNKNOWN}, not {self.words[:2]}")
        object.__setattr__(self, "_numbers", {word: number for number, word in enumerate(self.words)})

    @classmethod
    def of(cls, texts: Iterable[str], min_count: int = 1, size: int = 8192, max_words: int | None = None) -> Vocabulary:
        """The tokens that occur at least `min_count` times, most frequent first, `size` entries at most.

        Of each text only the first `max_words` tokens count, since those behind them are never encoded.
        Ties are in alphabetical order, so that the order of the texts does not matter.
        """
        counts = Counter(token for text in texts for token in tokenise(text)[:max_words])
        ranked = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
        kept = [word for word, count in ranked if count >= min_count]
        return cls((PAD, UNKNOWN, *kept[: max(size - 2, 0)]))

    def encode(self, text: str, max_words: int) -> list[int]:
        """`max_words` numbers: the tokens, cut or followed by `<pad>`; `<unk>` for those not in the vocabulary."""
        numbers = [self._numbers.get(token, UNKNOWN_ID) for token in tokenise(text)[:max_words]]
        return numbers + [PAD_ID] * (max_words - len(numbers))

    def decode(self, numbers: Sequence[int]) -> str:
        """The text of the numbers before the first `<pad>`.

        An unknown word stays visible as `<unk>`: a word that silently went missing would change the meaning.
        """
        tokens = []
        for number in numbers:
            if number == PAD_ID:
                break
            tokens.append(self.words[number])
        return detokenise(tokens)

    def __len__(self) -> int:
        return len(self.words)
