"""A short chaos run, with a fixed sample of the faults that `make chaos` draws."""

from pathlib import Path
from typing import Final

import pytest

from tests.chaos import run
from tests.chaos.run import Options
from tests.chaos.world import Servers
from tests.servers import PrivateServer

OPTIONS: Final = Options(faults=30, seed=5, every_secs=1.2, users=3, paper_users=1, calm=True)


@pytest.mark.timeout(400)
async def test_nothing_is_lost_or_doubled_under_a_sample_of_all_faults(
    killable_postgres: PrivateServer, killable_rabbitmq: PrivateServer, tmp_path: Path
) -> None:
    said: list[str] = []
    servers = Servers(postgres=killable_postgres, rabbitmq=killable_rabbitmq)
    evidence = await run.chaos(OPTIONS, servers, tmp_path, said.append)
    found = run.judged(evidence, said.append)
    assert not found, "\n".join(said)
