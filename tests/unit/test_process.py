"""How a process lives and ends: signals, dying parts, exit codes, the last line."""

import asyncio
import os
import signal

import pytest

from shared.errors import BotfleetError, InvalidSettings, LeaseRefused
from shared.process import DONE, FAILED, WRONG_USE, TaskGroup, execute, run_services


class Recorder:
    """A service that notes what happens to it."""

    def __init__(self, name: str, journal: list[str], dies: Exception | None = None) -> None:
        self.name = name
        self._journal = journal
        self._dies = dies
        self._stopping = asyncio.Event()
        self.running = asyncio.Event()

    async def run(self) -> None:
        self._journal.append(f"{self.name} runs")
        self.running.set()
        if self._dies is not None:
            raise self._dies
        await self._stopping.wait()
        self._journal.append(f"{self.name} ended")

    def stop(self) -> None:
        self._journal.append(f"{self.name} told to stop")
        self._stopping.set()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_the_services_one_after_the_other_the_last_first(
    number: signal.Signals,
) -> None:
    journal: list[str] = []
    first, second = Recorder("first", journal), Recorder("second", journal)
    running = asyncio.create_task(run_services([first, second]))
    await asyncio.gather(first.running.wait(), second.running.wait())
    os.kill(os.getpid(), number)
    await running
    assert journal[2:] == [
        "second told to stop",
        "second ended",
        "first told to stop",
        "first ended",
    ]


async def test_a_service_that_dies_stops_the_others_and_its_error_is_raised() -> None:
    journal: list[str] = []
    healthy = Recorder("healthy", journal)
    dying = Recorder("dying", journal, dies=LeaseRefused("held"))
    with pytest.raises(LeaseRefused, match="held"):
        await run_services([healthy, dying])
    assert "healthy ended" in journal


async def test_watch_raises_what_a_task_died_of() -> None:
    async def dies() -> None:
        raise LeaseRefused("gone")

    group = TaskGroup()
    group.start("dies", dies())
    with pytest.raises(LeaseRefused, match="gone"):
        await group.watch(asyncio.Event())
    await group.cancel()


async def test_watch_refuses_a_task_that_ends_early() -> None:
    async def ends() -> None: ...

    group = TaskGroup()
    group.start("ends", ends())
    with pytest.raises(BotfleetError, match="the task ends ended although"):
        await group.watch(asyncio.Event())


async def test_watch_returns_at_the_event_and_cancel_ends_the_tasks() -> None:
    cancelled = asyncio.Event()

    async def works() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    group, until = TaskGroup(), asyncio.Event()
    group.start("works", works())
    asyncio.get_running_loop().call_soon(until.set)
    await group.watch(until)
    assert not cancelled.is_set()
    await group.cancel("works")
    assert cancelled.is_set()


@pytest.mark.parametrize(
    ("error", "code"),
    [(None, DONE), (InvalidSettings("PORT is wrong"), WRONG_USE), (LeaseRefused("held"), FAILED)],
)
def test_execute_turns_errors_into_exit_codes_and_a_last_line(
    error: BotfleetError | None, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    async def main() -> None:
        if error is not None:
            raise error

    assert execute(main) == code
    assert capsys.readouterr().err == (f"botfleet: {error}\n" if error else "")
