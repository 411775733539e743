"""Many users' keys on one worker: the bound of the clients holds, and every key is itself."""

from loadtests.bench_credentials import MASTER_KEYS, key, place_of, use_all, working
from shared.vault import Vault

CREDENTIALS = 120
POOL_SIZE = 6


async def test_a_pool_of_a_few_clients_serves_many_keys() -> None:
    vault = Vault(MASTER_KEYS)
    sealed = [vault.seal(key(number), place_of(number)) for number in range(CREDENTIALS)]
    async with working(sealed, pool_size=POOL_SIZE) as (server, worker):
        await use_all(worker, CREDENTIALS)
        assert worker.most_clients == POOL_SIZE
        assert [len(pool) for pool in worker.pools.values()] == [POOL_SIZE, POOL_SIZE]
        assert worker.answered == CREDENTIALS
        assert len(server.keys) == CREDENTIALS
