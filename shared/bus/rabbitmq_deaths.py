"""What RabbitMQ notes in `x-death` of a message that it dead-lettered, in our own headers."""

from datetime import UTC, datetime

from shared.clock import ms_of
from shared.topology import death_headers


def headers_of_death(deaths: object) -> dict[str, str]:
    """The headers of the latest death, which RabbitMQ lists first. None where it is unreadable:
    a client may write anything there (https://www.rabbitmq.com/docs/dlx).
    """
    match deaths:
        case [
            {
                "reason": str(reason),
                "exchange": str(exchange),
                "routing-keys": [str(routing_key), *_],
                "time": datetime() as died_at,
            },
            *_,
        ]:
            aware = died_at if died_at.tzinfo else died_at.replace(tzinfo=UTC)
            return death_headers(
                reason=reason, exchange=exchange, routing_key=routing_key, died_at_ms=ms_of(aware)
            )
        case _:
            return {}
