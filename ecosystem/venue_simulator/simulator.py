"""The venue simulator as a server: start, answer, remember, close."""

import asyncio
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aiohttp import web

from ecosystem.venue_simulator.accounts import Accounts
from ecosystem.venue_simulator.binance_private import BinancePrivate
from ecosystem.venue_simulator.clock import MarketClock
from ecosystem.venue_simulator.faults import FaultBoard
from ecosystem.venue_simulator.journal import Journal
from ecosystem.venue_simulator.kraken_private import KrakenPrivate
from ecosystem.venue_simulator.listings import ASSETS, Listing, listing, synthetic_listings
from ecosystem.venue_simulator.market import Market
from ecosystem.venue_simulator.minutes import CLOSE, Tape
from ecosystem.venue_simulator.private_api import PrivateApi
from ecosystem.venue_simulator.private_routes import PrivateSide
from ecosystem.venue_simulator.replay import ReplayTape, load_replay
from ecosystem.venue_simulator.routes import VENUE_APIS, fault_routes, status_route, venue_routes
from ecosystem.venue_simulator.state import StateFile
from ecosystem.venue_simulator.synthetic import SyntheticTape
from ecosystem.venue_simulator.trading import Surroundings, Trading
from shared.clock import wall_ms
from shared.errors import InvalidSettings, VenueUnavailable
from shared.process import TaskGroup
from shared.venues import BINANCE, KRAKEN, VENUES, base_of, quote_of

log = logging.getLogger(__name__)

REPLAY_SPREAD: Final = 0.0002

_SAVE_EVERY_SECS: Final = 1.0
_PROMISE_SECS: Final = 3.0
"""How far ahead of the clock the state file is: some saves may be late before the clock waits."""
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
        self._faults = FaultBoard()
        self._accounts = Accounts()
        self._journal = Journal(None)
        self._tasks = TaskGroup()
        self._runner: web.AppRunner | None = None
        self._state: StateFile | None = None
        self._clock: MarketClock
        self._play: _Play

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
        await self._listen()
        self._tasks.start("venue-simulator-clock", self._keep_time())

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
        if self._state is not None:
            await asyncio.to_thread(self._state.save, self._clock.now_ms())

    async def _listen(self) -> None:
        app = web.Application()
        market = Market(self._play.tapes)
        around = Surroundings(
            market=market, clock=self._clock, faults=self._faults, journal=self._journal
        )
        privates: tuple[PrivateApi, ...] = (KrakenPrivate(), BinancePrivate())
        for api, private in zip(VENUE_APIS, privates, strict=True):
            app.add_routes(
                venue_routes(api, private, market=market, clock=self._clock, faults=self._faults)
            )
            trading = Trading(api.venue, around)
            app.add_routes(PrivateSide(private, around, trading, self._accounts).routes())
        app.add_routes([*fault_routes(self._faults), status_route(self.status)])
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=_SHUTDOWN_SECS)
        await runner.setup()
        options = self._options
        try:
            await web.TCPSite(runner, options.host, options.port).start()
        except OSError as exc:
            await runner.cleanup()
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
