"""The ``fastvision`` command. Exit codes: 0 done, 1 ``doctor`` found something wrong, 2 bad input."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from fastvision.cli import detect, doctor
from fastvision.cli.errors import CommandError

_COMMANDS = (doctor, detect)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code. ``argv`` defaults to the process's arguments."""
    parser = argparse.ArgumentParser(prog="fastvision", description="Fast vision ops for PyTorch.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in _COMMANDS:
        name = command.__name__.rpartition(".")[2]
        subparser = commands.add_parser(name, help=command.HELP, description=command.HELP)
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run, name=name)
    arguments = parser.parse_args(argv)
    try:
        code: int = arguments.run(arguments)
    except CommandError as error:
        print(f"fastvision {arguments.name}: {error}", file=sys.stderr)
        return 2
    return code
