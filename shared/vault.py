"""Users' keys at the venues, and how they are sealed."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A key and its secret in the clear: hold it for as short a time as the work takes."""

    key: str = field(repr=False)
    secret: str = field(repr=False)
