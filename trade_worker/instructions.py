"""What a worker does when it is told something on `system`."""

from collections.abc import Callable

from shared.signals import Control, ControlVerb
from trade_worker.newest import NewestTicks


class Instructions:
    """Obeys control messages and notes announcements. Nothing here waits.

    `names` are those by which this worker is addressed. `stop` drains it, `look_at_leases` and
    `look_at_changes` have it look now rather than at its next turn.
    """

    def __init__(
        self,
        newest: NewestTicks,
        *,
        names: tuple[str, ...],
        stop: Callable[[], None],
        look_at_leases: Callable[[], None],
        look_at_changes: Callable[[], None],
    ) -> None:
        self._newest = newest
        self._names = names
        self._stop = stop
        self._look_at_leases = look_at_leases
        self._look_at_changes = look_at_changes

    def obey(self, control: Control) -> None:
        """Do what a person wants, if we are meant."""
        match control.verb:
            case ControlVerb.RESET:
                self._newest.forget(control.market)
            case ControlVerb.SHUTDOWN:
                if control.addresses(*self._names):
                    self._stop()
            case ControlVerb.PAUSE | ControlVerb.RESUME:
                self._look_at_changes()

    def note(self, change: str) -> None:
        """Look at what somebody says has changed."""
        if change == "shards":
            self._look_at_leases()
        else:
            self._look_at_changes()
