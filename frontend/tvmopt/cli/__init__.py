"""The program `tvmopt`: one file per subcommand, each light until it runs."""

import contextlib
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from tvmopt.cli.session import Session
    from tvmopt.plugins import Plugins


def main(args: Sequence[str] | None = None, plugins: "Plugins | None" = None) -> int:
    """Runs the command line and returns the exit code.

    0 done; 2 wrong usage; 3 a gate failed; 4 a tool error; 5 a package is missing; 130 interrupted.

    Args:
        args: the arguments; by default those of the process.
        plugins: what to run with; by default the installed plugins.
    """
    try:
        # Imported here, so that Ctrl-C during the imports is answered like any other.
        from tvmopt.cli.interrupts import remembered
        from tvmopt.cli.session import Session
        from tvmopt.plugins import Plugins

        with remembered() as interrupt:
            session = Session(Plugins.of() if plugins is None else plugins, interrupt=interrupt)
            return _run(args, session, load=plugins is None)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)  # noqa: T201 - rich may not be loaded yet
        return 130
    finally:
        if args is None:
            # Python takes a moment to end; Ctrl-C in it shall not change the exit code.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            # CPython would end by SIGINT, whatever the exit code, if Ctrl-C ever left an `exec` of
            # text (each dataclass that an import defines is one). The next `exec` forgets it.
            exec("")


def _run(args: Sequence[str] | None, session: "Session", *, load: bool) -> int:
    from tvmopt.cli.app import make_cli
    from tvmopt.cli.failure import INTERRUPTED, explain
    from tvmopt.plugins import Plugins

    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            if load:
                session.plugins = Plugins.load()
            code = make_cli(session.plugins).main(
                None if args is None else list(args),
                prog_name="tvmopt",
                obj=session,
                standalone_mode=False,
            )
            sys.stdout.flush()
            session.interrupt.check()
            return code if isinstance(code, int) else 0
    except BrokenPipeError:
        # The reader (`| head`) went away. Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except SystemExit:
        # What click and rich make of a reader that went away. Others' never get here: see `_Cli`.
        return 1
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the last resort, by design
        plugin = session.plugins.origin_of_command(session.command)
        if plugin and not hasattr(error, "__notes__"):
            error.add_note(f"in the command '{session.command}' of the plugin '{plugin}'")
        wanted = session.verbose or os.environ.get("TVMOPT_TRACEBACK") == "1"
        failure = explain(error)
        if session.interrupt.happened and failure.code != INTERRUPTED:
            failure = explain(KeyboardInterrupt())  # this is what Ctrl-C became on its way
        given = sys.argv[1:] if args is None else args
        if "--json" in given and not plugin and failure.message:  # a plugin's --json is its own
            from tvmopt.cli.console import print_json

            with contextlib.suppress(OSError):  # it may be stdout that failed
                print_json(failure.to_json())
                sys.stdout.flush()
        print(failure.text(traceback=wanted), file=sys.stderr)  # noqa: T201 - rich may not be loaded yet
        return failure.code


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    print(f"warning: {message}", file=file or sys.stderr)
