"""What aio-pika and aiormq raise, as our errors: translated once, here."""

import asyncio
import contextlib
from collections.abc import Iterator

from aio_pika.exceptions import (
    CONNECTION_EXCEPTIONS,
    AuthenticationError,
    ChannelPreconditionFailed,
    DeliveryError,
    InvalidFrameError,
    ProbableAuthenticationError,
)
from aiormq.exceptions import ChannelAccessRefused

from shared.errors import BrokerUnavailable, Halt, InvalidSettings, PublishTimeout


@contextlib.contextmanager
def broker_errors(doing: str) -> Iterator[None]:
    """Translate what a broker call raises; `doing` begins the text.

    `InvalidSettings` for a refused user, password or virtual host; `Halt` for a refused
    queue or right; `PublishTimeout` for time that ran out; else `BrokerUnavailable`.

    CancelledError comes out exactly if the task was cancelled meanwhile. aiormq errs both ways:
    it rejects what waits on a lost connection with CancelledError, and its `wait_for` swallows
    a cancellation that meets a result (Python before 3.12).
    """
    task = asyncio.current_task()
    cancelled_before = 0 if task is None else task.cancelling()
    try:
        yield
        if task is not None and task.cancelling() > cancelled_before:
            raise asyncio.CancelledError
    except asyncio.CancelledError as exc:
        if task is None or task.cancelling() > cancelled_before:
            raise
        raise BrokerUnavailable(f"{doing}: the connection was lost") from exc
    except TimeoutError as exc:
        raise PublishTimeout(f"{doing}: no answer from the broker in time") from exc
    except DeliveryError as exc:
        raise BrokerUnavailable(f"{doing}: the broker did not take the message (nack)") from exc
    except CONNECTION_EXCEPTIONS as exc:
        raise _translated(doing, exc) from exc


def _translated(doing: str, exc: Exception) -> BrokerUnavailable | Halt:
    text = f"{doing}: {exc or repr(exc)}"
    match exc:
        case ProbableAuthenticationError() | AuthenticationError():
            return InvalidSettings(text)
        case InvalidFrameError() if "Connection.OpenOk" in text:
            # aiormq expects no refusal here and drops what the broker said.
            return InvalidSettings(
                f"{doing}: the virtual host is unknown or not for this user, "
                "or too many connections are open"
            )
        case ChannelPreconditionFailed() | ChannelAccessRefused():
            return Halt(text)
        case _:
            return BrokerUnavailable(text)
