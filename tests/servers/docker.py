"""Private servers in containers, for machines that have an engine but no server programs."""

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence

from tests.servers.choice import Kind
from tests.servers.names import new_name
from tests.servers.private import (
    Port,
    PrivateServer,
    ServerFailed,
    new_folder,
)


class ContainerServer(PrivateServer):
    """A `PrivateServer` whose processes the engine owns; its keeper removes the container."""

    def __init__(
        self,
        kind: Kind,
        *,
        port: Port,
        url: str,
        settings: Mapping[str, str],
        arguments: Sequence[str] = (),
        answers: Callable[[], bool],
    ) -> None:
        self.name = new_name()
        folder = new_folder("docker")
        super().__init__(
            url=url,
            ports=[port],
            folder=folder,
            command=["docker", "start", "--attach", self.name],
            # The developer's own: it says where the engine is.
            environment=os.environ,
            answers=answers,
            at_end=["docker", "rm", "--force", "--volumes", self.name],
        )
        published = f"127.0.0.1:{port.number}:{kind.default_port}"
        options = [f"--env={name}={value}" for name, value in settings.items()]
        create = ["create", "--name", self.name, "--publish", published, *options]
        try:
            docker(*create, kind.docker_image, *arguments)
        except ServerFailed:
            self.close()
            raise

    def kill(self) -> None:
        if self._is("Running"):
            docker("kill", self.name)
        super().kill()

    def stop(self) -> None:
        docker("pause", self.name)

    def cont(self) -> None:
        docker("unpause", self.name)

    def terminate(self) -> None:
        docker("stop", self.name)

    def _is(self, state: str) -> bool:
        return docker("inspect", "--format", f"{{{{.State.{state}}}}}", self.name) == "true"


def docker(*arguments: str) -> str:
    """What the docker command says. Raises `ServerFailed` with what it complains about."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ServerFailed(f"docker {arguments[0]}: {done.stderr.strip()}")
    return done.stdout.strip()
