"""The `labkit` command. Each part of it is loaded when it is called, so that each starts fast."""

from __future__ import annotations

import importlib
import importlib.util
import sys

import click

from labkit.errors import LabError, report

#: Where each command is: module and attribute, a `click.Command`. A new one gets a line here.
COMMANDS = {
    "broker": "labkit.broker.commands:broker",
    "demo": "labkit.demo:demo",
    "doctor": "labkit.doctor:command",
    "lab": "labkit.lab_command:lab",
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called, or listed by `--help`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of the alphabet."""
        return sorted(name for name in COMMANDS if _exists(name))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, else None."""
        if cmd_name not in COMMANDS or not _exists(cmd_name):
            return None
        module, attribute = COMMANDS[cmd_name].split(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command


def _exists(name: str) -> bool:
    return importlib.util.find_spec(COMMANDS[name].split(":")[0]) is not None


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
def group() -> None:
    """Message queues, for real: a broker, demos and a check of your environment."""


def main() -> None:
    """Runs the command; an error that its reader can mend shows as its message alone."""
    try:
        group()
    except LabError as exc:
        sys.exit(report(exc))


if __name__ == "__main__":
    main()
