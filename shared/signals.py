"""What services and people tell each other about the fleet itself, with its codec.

As in messages.py: frozen, versioned, JSON bodies, milliseconds of UTC since 1970.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

import orjson

from shared.errors import UndecodableMessage
from shared.json_fields import (
    VERSION,
    json_object,
    object_of,
    optional_text_of,
    text_of,
    version_of,
    whole_of,
)
from shared.venues import VENUES


class Severity(StrEnum):
    """Who should look at an alert: nobody, somebody today, somebody now."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """Something that a person may want to know. Published on `system` as `system.alert.*`.

    `code` names what happened for machines, `text` says it for people. `instance` is the run of
    the service that noticed it.
    """

    severity: Severity
    service: str
    instance: str
    code: str
    text: str
    at_ms: int
    facts: Mapping[str, Any] = field(default_factory=dict)
    version: int = VERSION


class ControlVerb(StrEnum):
    """What a person tells running services to do."""

    RESET = "reset"
    """Forget the last tick of a market, so that a lower sequence is taken again."""
    SHUTDOWN = "shutdown"
    """Finish what is under way, give everything back and stop."""
    PAUSE = "pause"
    """The fleet's kill switch has been turned on: look at it now."""
    RESUME = "resume"
    """The fleet's kill switch has been turned off: look at it now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """A person's word to running services. Published on `system` as `system.control.<verb>`.

    `target` None means all. For `shutdown` it is a service (`trade_worker`) or the name of one
    process of it (`1`), for `reset` a market (`kraken/BTC/USD`). Raises ValueError for a target
    that its verb does not have.
    """

    verb: ControlVerb
    at_ms: int
    target: str | None = None
    version: int = VERSION

    def __post_init__(self) -> None:
        if self.target is None:
            return
        if self.verb in (ControlVerb.PAUSE, ControlVerb.RESUME):
            raise ValueError(f"{self.verb} has no target, was {self.target!r}")
        if self.verb is ControlVerb.RESET:
            venue, _, pair = self.target.partition("/")
            if venue not in VENUES or "/" not in pair:
                raise ValueError(
                    f"the target of reset must be a market such as kraken/BTC/USD, on "
                    f"{' or '.join(VENUES)}, was {self.target!r}"
                )

    @property
    def market(self) -> tuple[str, str] | None:
        """(venue, pair) of a `reset`; None for every market."""
        if self.target is None:
            return None
        venue, _, pair = self.target.partition("/")
        return venue, pair

    def addresses(self, *names: str) -> bool:
        """Whether a process that goes by these names is meant."""
        return self.target is None or self.target in names


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigChanged:
    """Something was changed in the database. Published on `system` as `system.config.<change>`.

    It only wakes: who misses it finds the change a little later.
    """

    change: str
    at_ms: int
    version: int = VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class EntriesDenied:
    """How often a worker denied entries on a venue. Published on `risk` as `risk.denied.<venue>`.

    `counts` maps stage to reason to how many judgements of a (bot, pair) on a tick ended so
    since the worker's last report, which was `since_ms`.
    """

    worker: str
    venue: str
    since_ms: int
    at_ms: int
    counts: Mapping[str, Mapping[str, int]]
    version: int = VERSION


Signal = Alert | Control | ConfigChanged | EntriesDenied


def encode(signal: Signal) -> bytes:
    """The signal as a JSON body."""
    return orjson.dumps(signal)


def decode_alert(body: bytes) -> Alert:
    """A `system.alert.*` body. Raises `UndecodableMessage` that names the field."""
    fields = json_object(body)
    return Alert(
        version=version_of(fields),
        severity=_one_of(Severity, fields, "severity"),
        **{name: text_of(fields, name) for name in ("service", "instance", "code", "text")},
        at_ms=whole_of(fields, "at_ms"),
        facts=object_of(fields, "facts"),
    )


def decode_control(body: bytes) -> Control:
    """A `system.control.*` body. Raises `UndecodableMessage` that names the field."""
    fields = json_object(body)
    verb = _one_of(ControlVerb, fields, "verb")
    try:
        return Control(
            version=version_of(fields),
            verb=verb,
            target=optional_text_of(fields, "target"),
            at_ms=whole_of(fields, "at_ms"),
        )
    except ValueError as exc:
        raise UndecodableMessage(str(exc)) from exc


def decode_denied(body: bytes) -> EntriesDenied:
    """A `risk.denied.*` body. Raises `UndecodableMessage` that names the field."""
    fields = json_object(body)
    counts = object_of(fields, "counts")
    return EntriesDenied(
        version=version_of(fields),
        worker=text_of(fields, "worker"),
        venue=text_of(fields, "venue"),
        since_ms=whole_of(fields, "since_ms"),
        at_ms=whole_of(fields, "at_ms"),
        counts={
            stage: {reason: whole_of(reasons, reason) for reason in reasons}
            for stage in counts
            for reasons in [object_of(counts, stage)]
        },
    )


_Choice = TypeVar("_Choice", bound=StrEnum)


def _one_of(choices: type[_Choice], fields: dict[str, Any], name: str) -> _Choice:
    value = fields.get(name)
    try:
        return choices(str(value))
    except ValueError as exc:
        allowed = ", ".join(choices)
        raise UndecodableMessage(f"{name} must be one of {allowed}, was {value!r}") from exc
