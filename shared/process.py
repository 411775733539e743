"""How a process lives: one event loop, named tasks that are watched, signals, exit codes."""

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from typing import Any, Protocol

from shared.errors import BotfleetError, InvalidSettings
from shared.hardening import harden

log = logging.getLogger(__name__)

DONE, FAILED, WRONG_USE = 0, 1, 2
"""Exit codes."""


class Service(Protocol):
    """A part of botfleet that runs until it is told to stop."""

    @property
    def name(self) -> str: ...

    async def run(self) -> None:
        """Work until `stop`, then drain, release and close. Raises if any part of it dies."""
        ...

    def stop(self) -> None:
        """Ask for a graceful end. Returns at once; safe to call twice."""
        ...


class TaskGroup:
    """Background tasks of one owner: each has a name, and one death ends all.

    Unlike `asyncio.TaskGroup`, `wait` can be left with everything still running, so that the
    owner decides the order of shutdown.
    """

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Start a task that is meant to run until `cancel`."""
        self._tasks[name] = asyncio.create_task(work, name=name)

    async def watch(self, until: asyncio.Event) -> None:
        """Wait until the event is set. Raises what a task died of, or that it ended early."""
        waiter = asyncio.create_task(until.wait(), name="until")
        try:
            done, _ = await asyncio.wait(
                {waiter, *self._tasks.values()}, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            waiter.cancel()
        for task in done - {waiter}:
            if task.cancelled():
                raise BotfleetError(f"the task {task.get_name()} was cancelled from outside")
            if (error := task.exception()) is not None:
                raise error
            raise BotfleetError(f"the task {task.get_name()} ended although it should run on")

    async def cancel(self, *names: str) -> None:
        """Cancel these tasks, or all, and wait until they are gone. Their errors are logged."""
        tasks = [self._tasks.pop(name) for name in names or tuple(self._tasks)]
        for task in tasks:
            task.cancel()
        for task, result in zip(
            tasks, await asyncio.gather(*tasks, return_exceptions=True), strict=True
        ):
            if isinstance(result, Exception):
                log.debug("the task %s ended with %r", task.get_name(), result)


async def run_services(services: Sequence[Service]) -> None:
    """Run services until SIGTERM or SIGINT, or until one of them ends; stop them all, last first.

    A second signal ends the process without waiting. Raises what a service died of.
    """
    stopping = asyncio.Event()
    with _signals(stopping):
        tasks = [asyncio.create_task(service.run(), name=service.name) for service in services]
        waiter = asyncio.create_task(stopping.wait(), name="signals")
        try:
            await asyncio.wait({waiter, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            for service, task in zip(reversed(services), reversed(tasks), strict=True):
                service.stop()
                await asyncio.wait({task})
        finally:
            waiter.cancel()
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result


@contextlib.contextmanager
def _signals(stopping: asyncio.Event) -> Iterator[None]:
    loop = asyncio.get_running_loop()

    def on_signal(number: signal.Signals) -> None:
        if stopping.is_set():
            log.warning("%s again: ending at once", number.name)
            for task in asyncio.all_tasks(loop):
                task.cancel()
        else:
            log.info("%s: stopping", number.name)
            stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


def execute(main: Callable[[], Awaitable[None]]) -> int:
    """Run `main` on uvloop and return the exit code, with a last line that says why."""
    import uvloop

    harden()

    async def body() -> None:
        await main()

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(body())
    except InvalidSettings as exc:
        print(f"botfleet: {exc}", file=sys.stderr)  # noqa: T201 - the process's last line
        return WRONG_USE
    except BotfleetError as exc:
        print(f"botfleet: {exc}", file=sys.stderr)  # noqa: T201
        return FAILED
    except (asyncio.CancelledError, KeyboardInterrupt):
        print("botfleet: ended at once, as asked", file=sys.stderr)  # noqa: T201
        return FAILED
    return DONE
