"""Nothing secret in what we write: known secrets and telling patterns become `***`.

No copy of a secret is kept here, only its length and hashes that this process salts, so that
also a secret whose owner has long gone is recognised.
"""

import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote

HIDDEN: Final = "***"

_SHORTEST: Final = 8
"""Shorter texts would be found in every other line, and no venue's secret is that short."""

_PATTERNS: Final = (
    # Signed query strings: the signature replays the request while its window is open.
    (re.compile(r"\b(signature=)[^&\s'\"]+", re.IGNORECASE), rf"\1{HIDDEN}"),
    # Headers, as text, as a dictionary's repr or as JSON, however often they were quoted.
    (
        re.compile(
            r"""\b(API-Key|API-Sign|X-MBX-APIKEY|apiKey|secret)(\\*["']?\s*[:=]\s*\\*["']?)
                [^\s"'\\,;&}\])]+""",
            re.IGNORECASE | re.VERBOSE,
        ),
        rf"\1\2{HIDDEN}",
    ),
    # The password of a URL, up to its last @: `amqp://user:pass@host`.
    (re.compile(r"(://[^\s/:@]*:)[^\s/]*@"), rf"\1{HIDDEN}@"),
)


class Redactor:
    """Takes secrets and telling patterns out of texts."""

    def __init__(self) -> None:
        self._hashes: set[int] = set()
        self._lengths: dict[int, tuple[int, ...]] = {}
        """By the hash of how secrets begin: their lengths, the longest first."""

    def learn(self, secrets: Iterable[str]) -> None:
        """Recognise these from now on, and as they look inside a URL."""
        for secret in secrets:
            for form in {secret, quote(secret, safe="")}:
                if len(form) >= _SHORTEST:
                    self._hashes.add(hash(form))
                    start = hash(form[:_SHORTEST])
                    known = {*self._lengths.get(start, ()), len(form)}
                    self._lengths[start] = tuple(sorted(known, reverse=True))

    def clean(self, text: str) -> str:
        """The text without secrets. Costs its length, however many secrets are known."""
        if self._hashes:
            text = self._without_known(text)
        for pattern, replacement in _PATTERNS:
            text = pattern.sub(replacement, text)
        return text

    def _without_known(self, text: str) -> str:
        kept, start, at = [], 0, 0
        lengths = self._lengths
        while at + _SHORTEST <= len(text):
            beginning = hash(text[at : at + _SHORTEST])
            length = self._length_at(text, at, beginning) if beginning in lengths else 0
            if length:
                kept += [text[start:at], HIDDEN]
                start = at = at + length
            else:
                at += 1
        return "".join((*kept, text[start:]))

    def _length_at(self, text: str, at: int, beginning: int) -> int:
        """Of the longest secret that stands there; 0: none does."""
        for length in self._lengths[beginning]:
            if hash(text[at : at + length]) in self._hashes:
                return length
        return 0


REDACTOR: Final = Redactor()
"""The process's own: the vault teaches it, the logs ask it."""
