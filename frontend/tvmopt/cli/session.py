"""What one run of the program carries from its start to each subcommand."""

from dataclasses import dataclass

from tvmopt.plugins import Plugins


@dataclass
class Session:
    """The plugins in use, and whether the user wants to see more (`-v`)."""

    plugins: Plugins
    verbose: bool = False
