"""Many `botfleet` commands in one process: to bring up a fleet, starting sixty would take minutes.

Reads a JSON list of `{"arguments": […], "typed": "…"}` from standard input; ends with 1 at the
first command that fails, after saying what it said.
"""

import json
import sys

from click.testing import CliRunner

from console.__main__ import botfleet


def main() -> int:
    for command in json.load(sys.stdin):
        result = CliRunner().invoke(botfleet, command["arguments"], input=command.get("typed"))
        if result.exit_code:
            sys.stdout.write(f"botfleet {' '.join(command['arguments'])}: {result.output}\n")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
