"""Faults from JSON. Pure."""

from collections.abc import Mapping
from typing import Any, Final

from ecosystem.venue_simulator.faults import ENDPOINTS, STANDING, Fault, FaultKind
from shared.errors import Refused
from shared.venues import VENUES


def fault_of(fields: Mapping[str, Any]) -> Fault:
    """A fault from a JSON object with the fields of `Fault`.

    Raises `Refused` with the field, what it was and what would be right.
    """
    names = Fault.__slots__
    unknown = sorted(set(fields) - set(names))
    if unknown:
        raise Refused(f"{unknown[0]} is not a field of a fault; they are {', '.join(names)}")
    kinds = [kind.value for kind in FaultKind]
    _one_of("venue", fields.get("venue"), list(VENUES))
    _one_of("kind", fields.get("kind"), kinds)
    _one_of("endpoint", fields.get("endpoint"), [None, *ENDPOINTS])
    fault = Fault(**{**fields, "kind": FaultKind(fields["kind"])})
    for name in ("pair", "account"):
        value = getattr(fault, name)
        if value is not None and not isinstance(value, str):
            raise Refused(f"{name} must be a text such as {_EXAMPLES[name]}, was {value!r}")
    if fault.kind is FaultKind.REFUSE and (fault.pair is None or fault.times is not None):
        raise Refused("refuse needs a pair and lasts until it is cleared: no times")
    if fault.kind in STANDING and (fault.times is not None or fault.after):
        raise Refused(f"{fault.kind.value} lasts until it is cleared: no times, no after")
    if fault.times is not None and (type(fault.times) is not int or fault.times < 1):
        raise Refused(f"times must be a whole number of at least 1, was {fault.times!r}")
    _whole("after", fault.after, low=0, high=1_000_000)
    _whole("parts", fault.parts, low=1, high=100)
    _whole("retry_after_secs", fault.retry_after_secs, low=0, high=86_400)
    if fault.kind is not FaultKind.LATE or fault.status != 0:
        _whole("status", fault.status, low=400, high=599)
    _within("probability", fault.probability, low=0, high=1)
    _within("delay_secs", fault.delay_secs, low=0, high=600)
    _within("factor", fault.factor, low=0, high=1000)
    _within("fraction", fault.fraction, low=0, high=1)
    _within("skew_secs", fault.skew_secs, low=-86_400, high=86_400)
    return fault


def faults_of(items: object) -> list[Fault]:
    """Faults from a JSON list of objects, such as the file of `--faults`. Raises `Refused`."""
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise Refused("faults must be a list of JSON objects")
    return [fault_of(item) for item in items]


_EXAMPLES: Final = {"pair": "BTC/USD", "account": "an API key"}


def _one_of(name: str, value: object, allowed: list[Any]) -> None:
    if value not in allowed:
        raise Refused(f"{name} must be one of {', '.join(map(str, allowed))}, was {value!r}")


def _within(name: str, value: object, *, low: float, high: float) -> None:
    if type(value) not in (int, float) or not low <= value <= high:  # type: ignore[operator]
        raise Refused(f"{name} must be a number from {low} to {high}, was {value!r}")


def _whole(name: str, value: object, *, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise Refused(f"{name} must be a whole number from {low} to {high}, was {value!r}")
