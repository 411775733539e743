"""The venue simulator as a server: start, answer, remember, close."""

import asyncio
import json
import logging
import math
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from ecosystem.venue_simulator.binance_private import BinancePrivate
from ecosystem.venue_simulator.clock import MarketClock
from ecosystem.venue_simulator.control_routes import account_routes, fault_routes, status_route
from ecosystem.venue_simulator.customers import Customers, KeyFile
from ecosystem.venue_simulator.fault_fields import faults_of
from ecosystem.venue_simulator.faults import FaultBoard
from ecosystem.venue_simulator.journal import VERSION, Journal
from ecosystem.venue_simulator.kraken_private import KrakenPrivate
from ecosystem.venue_simulator.listings import ASSETS, Listing, listing, synthetic_listings
from ecosystem.venue_simulator.market import Market
from ecosystem.venue_simulator.minutes import CLOSE, Tape
from ecosystem.venue_simulator.private_api import PrivateApi
from ecosystem.venue_simulator.private_routes import PrivateSide
from ecosystem.venue_simulator.replay import ReplayTape, load_replay
from ecosystem.venue_simulator.routes import VENUE_APIS, venue_routes
from ecosystem.venue_simulator.state import StateFile
from ecosystem.venue_simulator.synthetic import SyntheticTape
from ecosystem.venue_simulator.trading import Surroundings, Trading
from shared.clock import wall_ms
from shared.errors import InvalidSettings, Refused, VenueUnavailable
from shared.process import TaskGroup
from shared.venues import BINANCE, KRAKEN, VENUES, base_of, quote_of

log = logging.getLogger(__name__)

REPLAY_SPREAD: Final = 0.0002

_SAVE_EVERY_SECS: Final = 1.0
_PROMISE_SECS: Final = 3.0
"""How far ahead of the clock the state file is: some saves may be late before the clock waits."""
_ADVANCE_EVERY_SECS: Final = 0.05
_SHUTDOWN_SECS: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatorOptions:
    """What to simulate.

    `port` 0 takes a free one. `speed` is market time per wall time. `replay` plays a file of
    candles (see `replay.load_replay`) on `replay_kraken_pair` and `replay_binance_pair`, and
    nothing else; without it the market is synthetic, made from `seed`, with `markets` pairs per
    venue. `state` is the file that keeps the clock over restarts. `start_ms` is the market time
    to begin at where the state has none: of the synthetic market the wall clock's, which it
    then follows at speed 1.

    `journal` is the file of everything that the venues do (see `journal`), from which they go
    on after a restart; the secrets of its API keys are beside it in a file of the same name
    with `.keys` added. `accounts` is a JSON list of customers (see `accounts.key_of`); those
    whose key the journal has are there already. `faults` is a JSON list of what is wrong from
    the start (see `faults.Fault`).
    """

    host: str = "127.0.0.1"
    port: int = 0
    speed: float = 1.0
    seed: int = 1
    replay: Path | None = None
    state: Path | None = None
    markets: int = 12
    start_ms: int | None = None
    replay_kraken_pair: str = "BTC/USD"
    replay_binance_pair: str = "BTC/USDT"
    accounts: Path | None = None
    journal: Path | None = None
    faults: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Play:
    """A market with the name that its state goes by, and where its clock begins and ends."""

    name: str
    tapes: Mapping[Listing, Tape]
    start_ms: int
    end_ms: int | None


class VenueSimulator:
    """Kraken spot and Binance spot on one port of one event loop.

        simulator = VenueSimulator(SimulatorOptions(speed=60))
        await simulator.start()
        ... simulator.base_url ...
        await simulator.close()

    `start` raises `InvalidSettings` for options, replay or state files that make no sense, and
    `VenueUnavailable` if the port is taken. `close` is safe to call twice.
    """

    def __init__(self, options: SimulatorOptions) -> None:
        self._options = options
        self._faults = FaultBoard(chance=random.Random(options.seed).random)  # noqa: S311
        self._journal = Journal(options.journal)
        self._tasks = TaskGroup()
        self._runner: web.AppRunner | None = None
        self._state: StateFile | None = None
        self._clock: MarketClock
        self._play: _Play
        self._around: Surroundings
        self._tradings: Mapping[str, Trading]
        self._customers: Customers

    @property
    def base_url(self) -> str:
        """`http://127.0.0.1:port`: what replaces scheme and host of both venues."""
        if self._runner is None:
            raise RuntimeError("the venue simulator is not started")
        host, port = self._runner.addresses[0][:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def status(self) -> dict[str, object]:
        """What `GET /simulator/status` answers; `clock` is market time in ms of UTC."""
        replay = self._options.replay
        return {
            "clock": self._clock.now_ms(),
            "speed": self._clock.speed,
            "ended": self._clock.ended,
            "seed": None if replay else self._options.seed,
            "replay": replay.name if replay else None,
            "markets": {
                venue: [listing.pair for listing in self._play.tapes if listing.venue == venue]
                for venue in VENUES
            },
        }

    async def start(self) -> None:
        """Load the market, go on from the state, and listen."""
        if self._runner is not None:
            return
        _check(self._options)
        self._play = await asyncio.to_thread(_play, self._options)
        if self._options.state is not None:
            self._state = StateFile(self._options.state, market=self._play.name)
        self._clock = _clock(
            self._options, self._play, resumed_ms=self._state.load() if self._state else None
        )
        if self._state is not None:
            await self._promise(self._state)
        await self._open_venues()
        await self._listen()
        self._tasks.start("venue-simulator-clock", self._keep_time())
        self._tasks.start("venue-simulator-trading", self._keep_trading())

    async def watch(self, until: asyncio.Event) -> None:
        """Wait for the event. Raises if the simulator dies before."""
        await self._tasks.watch(until)

    async def close(self) -> None:
        """Stop listening, cut what is left of requests, and write the clock down."""
        await self._tasks.cancel()
        if self._runner is None:
            return
        runner, self._runner = self._runner, None
        await runner.cleanup()
        # Nobody asks any more, so nothing is written any more.
        await self._journal.close()
        if self._state is not None:
            await asyncio.to_thread(self._state.save, self._clock.now_ms())

    async def _open_venues(self) -> None:
        """Take up what the journal remembers, then what the options say."""
        options = self._options
        self._around = Surroundings(
            market=Market(self._play.tapes),
            clock=self._clock,
            faults=self._faults,
            journal=self._journal,
        )
        self._tradings = {venue: Trading(venue, self._around) for venue in VENUES}
        keys = None if options.journal is None else Path(f"{options.journal}.keys")
        self._customers = Customers(
            journal=self._journal, key_file=KeyFile(keys), tradings=self._tradings
        )
        entries = await asyncio.to_thread(self._journal.open)
        self._journal.write("opened", venue=None, version=VERSION, market=self._play.name)
        self._customers.restore(entries)
        known = {key.key for key in self._customers.accounts.all()}
        try:
            await self._customers.enter(
                fields for fields in _listed(options.accounts) if fields.get("key") not in known
            )
            for fault in faults_of(_listed(options.faults)):
                self._faults.set(fault)
        except Refused as exc:
            raise InvalidSettings(str(exc)) from exc

    async def _listen(self) -> None:
        app = web.Application()
        privates: tuple[PrivateApi, ...] = (KrakenPrivate(), BinancePrivate())
        for api, private in zip(VENUE_APIS, privates, strict=True):
            app.add_routes(
                venue_routes(
                    api, private, market=self._around.market, clock=self._clock, faults=self._faults
                )
            )
            trading = self._tradings[api.venue]
            side = PrivateSide(private, self._around, trading, self._customers.accounts)
            app.add_routes(side.routes())
        app.add_routes(
            [
                *fault_routes(self._faults),
                *account_routes(self._customers),
                status_route(self.status),
            ]
        )
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=_SHUTDOWN_SECS)
        await runner.setup()
        options = self._options
        try:
            await web.TCPSite(runner, options.host, options.port).start()
        except OSError as exc:
            await runner.cleanup()
            await self._journal.close()
            raise VenueUnavailable(
                f"the venue simulator cannot listen on {options.host}:{options.port}: {exc}"
            ) from exc
        self._runner = runner

    async def _keep_time(self) -> None:
        told_end = failing = False
        while True:
            if self._state is not None:
                try:
                    await self._promise(self._state)
                    failing = False
                except OSError as exc:
                    if not failing:
                        log.error("the market clock stops until its state is written: %s", exc)
                    failing = True
            if self._clock.ended and not told_end:
                log.info("the replay ended: clock and prices stay as they are")
                told_end = True
            await asyncio.sleep(_SAVE_EVERY_SECS)

    async def _keep_trading(self) -> None:
        """Late orders, partial fills and resting orders need nobody's request to go on."""
        while True:
            for trading in self._tradings.values():
                trading.advance()
            await self._journal.on_disk()
            await asyncio.sleep(_ADVANCE_EVERY_SECS)

    async def _promise(self, state: StateFile) -> None:
        """Write down a time ahead before the clock may reach it: a crash cannot turn it back."""
        horizon_ms = self._clock.horizon_ms(_PROMISE_SECS)
        await asyncio.to_thread(state.save, horizon_ms)
        self._clock.run_until(horizon_ms)


def _check(options: SimulatorOptions) -> None:
    if not (0 < options.speed <= 100_000 and math.isfinite(options.speed)):
        raise InvalidSettings(f"speed must be above 0 and at most 100000, was {options.speed}")
    if options.seed < 0:
        raise InvalidSettings(f"seed must be a whole number of at least 0, was {options.seed}")
    for pair in (options.replay_kraken_pair, options.replay_binance_pair):
        if not (base_of(pair) and quote_of(pair)):
            raise InvalidSettings(f"a replay's pair must be like BTC/USD, was {pair!r}")


def _listed(path: Path | None) -> list[dict[str, Any]]:
    """A file's JSON list."""
    if path is None:
        return []
    try:
        items = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise InvalidSettings(f"{path} cannot be read: {exc}") from exc
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise InvalidSettings(f"{path} must hold a JSON list of objects")
    return items


def _play(options: SimulatorOptions) -> _Play:
    if options.replay is None:
        tapes: dict[Listing, Tape] = {
            market: SyntheticTape(
                seed=options.seed, venue=venue, asset=ASSETS[base_of(market.pair)]
            )
            for venue in VENUES
            for market in synthetic_listings(venue, options.markets)
        }
        start_ms = wall_ms() if options.start_ms is None else options.start_ms
        return _Play(
            name=f"synthetic seed {options.seed}", tapes=tapes, start_ms=start_ms, end_ms=None
        )
    tape, name = load_replay(options.replay, spread=REPLAY_SPREAD)
    start_ms = max(tape.start_ms, options.start_ms or 0)
    pairs = {KRAKEN.name: options.replay_kraken_pair, BINANCE.name: options.replay_binance_pair}
    return _Play(
        name=name,
        tapes={
            listing(venue=venue, pair=pair, price=_first_close(tape)): tape
            for venue, pair in pairs.items()
        },
        start_ms=min(start_ms, tape.end_ms),
        end_ms=tape.end_ms,
    )


def _first_close(tape: ReplayTape) -> float:
    return float(tape.minutes(tape.first, 1)[CLOSE, 0])


def _clock(options: SimulatorOptions, play: _Play, *, resumed_ms: int | None) -> MarketClock:
    start_ms = play.start_ms if resumed_ms is None else resumed_ms
    follows_wall = options.speed == 1 and options.replay is None and options.start_ms is None
    if follows_wall:
        start_ms = max(start_ms, play.start_ms)
    return MarketClock(
        start_ms=start_ms,
        speed=options.speed,
        machine_ms=wall_ms if follows_wall else _monotonic_ms,
        end_ms=play.end_ms,
    )


def _monotonic_ms() -> float:
    return time.monotonic() * 1000
