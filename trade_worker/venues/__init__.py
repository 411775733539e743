"""The order port: how an intent becomes fills.

Paper trading is an adapter of its own (`paper.py`), never an `if` inside a live one.
"""

from collections.abc import Sequence
from typing import Protocol

from shared.orders import Fill, Intent


class OrderPort(Protocol):
    """One way to execute intents. An adapter serves one `shared.orders.Mode`."""

    def fill_at_commit(self, intent: Intent) -> Sequence[Fill]:
        """The fills that are true as soon as the intent is durable; they are committed with it.

        An adapter that has to ask a venue returns none.
        """
        ...
