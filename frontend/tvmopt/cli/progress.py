"""Progress on stderr: a bar with the time left on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Self

import click

if TYPE_CHECKING:
    from rich.progress import Progress

# How long a step takes against others, measured with MobileNetV2, rounded.
_WEIGHTS = {"import": 3, "layout": 6, "schedule": 8, "build": 30, "verify": 10, "package": 2}

_TELL_SECONDS = 5.0


class Steps:
    """Is called with the name of each step as it begins; used as a context manager.

    Args:
        names: the steps that are expected; others may come between them, and some never.
        check: is called with each step and each detail; raises what ends the work.
    """

    def __init__(self, names: Sequence[str], check: Callable[[], None] = lambda: None) -> None:
        self._names = list(names)
        self._begun = 0
        self._check = check
        self._bar: Progress | None = None
        self._told = 0.0

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            bar = _bar()
            bar.add_task("start", total=sum(map(_weight, self._names)))
            bar.start()
            self._bar = bar
        return self

    def __call__(self, name: str) -> None:
        """Begins the step `name`, which ends the one before."""
        self._check()
        self._expect(name)
        if self._bar is not None:
            weights = [_weight(one) for one in self._names]
            done, total = sum(weights[: self._begun]), sum(weights)
            task = self._bar.task_ids[0]
            self._bar.update(task, description=name, completed=done, total=total)
        else:
            click.echo(f"[{self._begun + 1}/{len(self._names)}] {name}", err=True)
            self._told = time.monotonic()
        self._begun += 1

    def _expect(self, name: str) -> None:
        """Puts it next: leaves out what it jumps over, or adds it."""
        ahead = self._names[self._begun :]
        after = ahead[ahead.index(name) :] if name in ahead else [name, *ahead]
        self._names[self._begun :] = after

    def detail(self, text: str) -> None:
        """Says how far the step is that runs; as a line not more often than every few seconds."""
        self._check()
        if self._bar is not None:
            description = f"{self._names[self._begun - 1]}: {text}"
            self._bar.update(self._bar.task_ids[0], description=description)
        elif time.monotonic() - self._told > _TELL_SECONDS:
            click.echo(f"      {text}", err=True)
            self._told = time.monotonic()

    def __exit__(self, *_exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()


class Rounds:
    """Is called with the number of each finished round of a measurement."""

    def __init__(self, label: str, total: int) -> None:
        self._label = label
        self._total = total
        self._bar: Progress | None = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            self._bar = _bar()
            self._bar.add_task(self._label, total=self._total)
            self._bar.start()
        else:
            click.echo(f"{self._label}, {self._total} rounds", err=True)
        return self

    def __call__(self, finished: int) -> None:
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=finished)

    def __exit__(self, *_exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()


def _bar() -> "Progress":
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description:<24}"), BarColumn(), TimeRemainingColumn())
    # Once or twice a second: the bar's thread takes time from what is measured.
    return Progress(*columns, console=Console(stderr=True), transient=True, refresh_per_second=2)


def _weight(name: str) -> int:
    return _WEIGHTS.get(name, 1)
