"""The error tree, sorted by what whoever catches must do: retry, drop, halt or tell.

Third-party exceptions are translated into these once, at the adapter that met them.
"""


class BotfleetError(Exception):
    """Base of every error that botfleet raises on purpose."""


class RetryLater(BotfleetError):
    """Something outside is away. Nothing is wrong with the request: try again later."""


class BrokerUnavailable(RetryLater):
    """No connection to the broker, or it broke before the broker confirmed."""


class PublishTimeout(BrokerUnavailable):
    """No confirm within the time allowed. The message may or may not have arrived."""


class StoreUnavailable(RetryLater):
    """The database cannot be reached, or the connection broke."""


class CommitUnknown(StoreUnavailable):
    """The connection broke inside COMMIT: read back before anything else."""


class VenueUnavailable(RetryLater):
    """The venue is slow, fails, or throttles. `retry_after_secs` is its own wish, if it has one."""

    def __init__(self, message: str, *, retry_after_secs: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_secs = retry_after_secs


class CredentialRefused(BotfleetError):
    """The venue, or our vault, does not let this key be used: its bots stand still meanwhile."""


class Discard(BotfleetError):
    """This one thing is bad: drop it, count it, go on with the others."""


class UndecodableMessage(Discard):
    """A message body that is not what its exchange promises."""


class SymbolRefused(Discard):
    """The venue refuses this request because of a symbol in it."""


class InvalidRow(Discard):
    """A database row that cannot mean anything sensible."""


class Halt(BotfleetError):
    """The process cannot go on. The text is its last line, for a person."""


class InvalidSettings(Halt):
    """A setting is missing, misspelt or impossible."""


class SchemaMismatch(Halt):
    """The database's schema and this code do not fit."""


class LeaseRefused(Halt):
    """Another live process holds what this one needs."""


class WorkerReplaced(Halt):
    """A newer process has taken over this one's name."""


class LeaseLost(Halt):
    """This process was paused or cut off past its lease: another may hold its work."""


class Refused(BotfleetError):
    """A person's request that cannot be done. The text says why and what would work."""
