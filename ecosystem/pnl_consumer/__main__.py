"""`python -m ecosystem.pnl_consumer [FILE]`: profit and loss per user, until Ctrl-C.

It needs the broker's URL, as every service. FILE keeps the sums (var/profit_and_loss.db).
"""

import contextlib
import sys
from pathlib import Path

from ecosystem.pnl_consumer.consumer import ProfitAndLoss
from ecosystem.pnl_consumer.ledger import Ledger
from ecosystem.pnl_consumer.screen import screen
from shared.bus.connect import bus_for
from shared.errors import InvalidSettings
from shared.process import execute, run_services
from shared.settings import load_settings
from shared.telemetry import configure_logging

FILE = Path("var/profit_and_loss.db")


async def main() -> None:
    """Run the consumer with the settings of this environment."""
    settings = load_settings()
    # Not among the results on standard output.
    configure_logging(settings.log_level, settings.log_format, sys.stderr)
    if settings.broker_url is None or settings.broker_url.startswith("memory:"):
        raise InvalidSettings("CLOUDAMQP_URL or RABBITMQ_URL must be set to amqp://… or amqps://…")
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else FILE
    bus = bus_for(settings.broker_url, name="profit and loss")
    async with contextlib.AsyncExitStack() as cleanup:
        cleanup.push_async_callback(bus.close)
        ledger = cleanup.enter_context(contextlib.closing(Ledger(path)))
        await bus.start()
        show = cleanup.enter_context(screen())
        await run_services([ProfitAndLoss(bus=bus, ledger=ledger, show=show)])


if __name__ == "__main__":
    sys.exit(execute(main))
