"""Nothing secret in what we write: known secrets and telling patterns become `***`.

No copy of a secret is kept here, only its length and a hash that this process salts, so that
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
        self._hashes: dict[int, set[int]] = {}

    def learn(self, secrets: Iterable[str]) -> None:
        """Recognise these from now on, and as they look inside a URL."""
        for secret in secrets:
            for form in {secret, quote(secret, safe="")}:
                if len(form) >= _SHORTEST:
                    self._hashes.setdefault(len(form), set()).add(hash(form))

    def clean(self, text: str) -> str:
        """The text without secrets. Costs its length times the number of secrets' lengths."""
        for length, hashes in self._hashes.items():
            text = _without(text, length, hashes)
        for pattern, replacement in _PATTERNS:
            text = pattern.sub(replacement, text)
        return text


def _without(text: str, length: int, hashes: set[int]) -> str:
    start = 0
    while start + length <= len(text):
        if hash(text[start : start + length]) in hashes:
            text = text[:start] + HIDDEN + text[start + length :]
            start += len(HIDDEN)
        else:
            start += 1
    return text


REDACTOR: Final = Redactor()
"""The process's own: the vault teaches it, the logs ask it."""
