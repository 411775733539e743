"""Profit and loss per user, live from the fleet's events: an example of a consumer that may be
away for as long as it likes and still misses nothing.

`python -m ecosystem.pnl_consumer` runs it. What it takes to miss nothing:

- a durable queue of its own, which collects while nobody consumes (`topology.event_queue`);
- an acknowledgement only after what it did with an event is on disk;
- since that makes events come again: a memory of what it has seen, written together with the
  sums. Events of one bot on one pair come in order with growing ids, so the highest id that
  was seen is memory enough.
"""
