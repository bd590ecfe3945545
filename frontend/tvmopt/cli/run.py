"""`tvmopt run`: a package, some inputs, and what comes out."""

import click


@click.command()
def run() -> None:
    """Runs a package."""
