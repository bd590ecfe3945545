"""What one run of the program carries from its start to each subcommand."""

from dataclasses import dataclass, field

from tvmopt.cli.interrupts import Interrupt
from tvmopt.plugins import Plugins


@dataclass
class Session:
    """The plugins in use, and whether the user wants to see more (`-v`) or to stop (Ctrl-C).

    `command` is the name of the subcommand that runs.
    """

    plugins: Plugins
    verbose: bool = False
    command: str = ""
    interrupt: Interrupt = field(default_factory=Interrupt)
