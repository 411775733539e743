"""RabbitMQ and PostgreSQL for the tests, wherever this machine has them.

Most tests use the fixtures of tests/conftest.py. Tests that kill or pause servers start their
own: `with private_rabbitmq() as server: … server.kill(); server.restart()`.
"""

from tests.servers.choice import ServersMissing
from tests.servers.private import PrivateServer, ServerFailed
from tests.servers.session import private_postgres, private_rabbitmq

__all__ = [
    "PrivateServer",
    "ServerFailed",
    "ServersMissing",
    "private_postgres",
    "private_rabbitmq",
]
