"""Kraken spot and Binance spot as one local HTTP server, with made-up or recorded prices.

Unmodified ccxt talks to it once `urls["api"]` points at its base URL.
"""

from ecosystem.venue_simulator.simulator import SimulatorOptions, VenueSimulator

__all__ = ["SimulatorOptions", "VenueSimulator"]
