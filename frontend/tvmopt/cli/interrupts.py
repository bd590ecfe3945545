"""Ctrl-C, remembered: what it raises may be lost, or come back as another exception."""

import signal
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Interrupt:
    """Whether the user has pressed Ctrl-C.

    A KeyboardInterrupt raised in a function that TVM calls back becomes a RuntimeError without a
    text, and one raised in a destructor is dropped. So whoever can stop asks here, too.
    """

    happened: bool = False

    def check(self) -> None:
        """Raises what Ctrl-C raises, if it was pressed."""
        if self.happened:
            raise KeyboardInterrupt


@contextmanager
def remembered() -> Generator[Interrupt]:
    """Remembers Ctrl-C within the block, where Python would only raise KeyboardInterrupt.

    Changes nothing outside the main thread, which alone may handle signals, and nothing where
    somebody else handles or ignores Ctrl-C.
    """
    interrupt = Interrupt()
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield interrupt
        return

    def record(_signal: int, _frame: object) -> None:
        interrupt.happened = True
        raise KeyboardInterrupt

    unraisable = sys.unraisablehook

    def report(args: "sys.UnraisableHookArgs") -> None:
        if not interrupt.happened:  # else it is Ctrl-C in a destructor, which is answered anyway
            unraisable(args)

    sys.unraisablehook = report
    signal.signal(signal.SIGINT, record)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.unraisablehook = unraisable
