"""Failpoints of one's choice on real processes: `python -m tests.chaos.moments FAILPOINT …`.

As the failpoint matrix (tests/chaos/failpoint_matrix.py), with whatever tests/chaos/member.py
takes, such as `before_commit=pause:4.6`: a pause that ends when the lease has just run out, and
nobody has decided anew yet what the worker is about to commit.
"""

import asyncio
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.chaos.failpoint_matrix import Outcome, report, run
from tests.chaos.member import Failpoint
from tests.servers import private_postgres, private_rabbitmq


async def _on_private_servers(folder: Path, wanted: Sequence[Failpoint]) -> Outcome:
    with private_postgres() as postgres, private_rabbitmq() as rabbitmq:
        return await run(folder, database_url=postgres.url, broker_url=rabbitmq.url, wanted=wanted)


def main(texts: Sequence[str]) -> int:
    wanted = [Failpoint.parse(text) for text in texts]
    folder = Path(tempfile.mkdtemp(prefix="botfleet_moments_"))
    outcome = asyncio.run(_on_private_servers(folder, wanted))
    report(outcome, sys.stdout.write)
    if outcome.violations or outcome.wrong:
        sys.stdout.write(f"logs and journal are in {folder}\n")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
