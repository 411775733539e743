"""Kraken and Binance once more, written from their documentation and from nothing of ours.

The project's own simulator and its adapters come from one hand: a wrong idea of a venue could
be in both. This package shares no code with either. `python -m tests.other_venues` serves it.
"""
