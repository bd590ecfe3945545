"""`tvmopt example-schedules PACKAGE`: how many kernels each schedule took."""

from collections import Counter
from pathlib import Path

import click

import tvmopt


@click.command("example-schedules")
@click.argument("package", type=click.Path(path_type=Path))
def schedules(package: Path) -> None:
    """Counts the kernels of PACKAGE by schedule."""
    counts = Counter(layer.schedule for layer in tvmopt.load(package).report.layers)
    for name, count in counts.most_common():
        click.echo(f"{name} {count}")
