"""Puts the subcommands together: tvmopt's own first, then those of plugins."""

from typing import Any

import click

from tvmopt.cli.analyze import analyze
from tvmopt.cli.benchmark import benchmark
from tvmopt.cli.compare import compare
from tvmopt.cli.compile import compile_command
from tvmopt.cli.doctor import doctor
from tvmopt.cli.inspect import inspect_command
from tvmopt.cli.options import verbose_option
from tvmopt.cli.plugins import plugins_command
from tvmopt.cli.profile import profile
from tvmopt.cli.quantize import quantize
from tvmopt.cli.run import run
from tvmopt.cli.session import Session
from tvmopt.cli.targets import targets
from tvmopt.errors import unknown_name
from tvmopt.plugins import Plugins

COMMANDS: tuple[click.Command, ...] = (
    compile_command,
    quantize,
    run,
    benchmark,
    profile,
    inspect_command,
    analyze,
    compare,
    targets,
    plugins_command,
    doctor,
)


_EXIT_CODES = (
    "Exit codes: 0 done, 2 wrong usage, 3 a result outside its limits, 4 any other error, "
    "5 a package is missing, 130 interrupted. Results go to stdout, all else to stderr."
)


class _Cli(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)  # in the order of registration, which is the order of use

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.commands and not args[0].startswith("-"):
            raise unknown_name("command", args[0], self.commands)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SystemExit as error:
            if isinstance(error.__context__, BrokenPipeError):  # rich answers it in this way
                raise
            # A command returns its exit code. Else a plugin could end the program in silence.
            raise RuntimeError(f"it called sys.exit({error.code!r})") from error


def make_cli(plugins: Plugins) -> click.Group:
    """The program with the commands of `plugins`; plugins whose commands fail are marked bad."""
    settings = {"help_option_names": ["-h", "--help"]}

    @click.group(
        cls=_Cli, context_settings=settings, invoke_without_command=True, epilog=_EXIT_CODES
    )
    @click.version_option(package_name="tvmopt", prog_name="tvmopt", message="%(prog)s %(version)s")
    @verbose_option
    @click.pass_context
    def cli(ctx: click.Context) -> None:
        """Compiles neural networks for your hardware with Apache TVM.

        Compile an ONNX model into one .tvmpkg file, run it, measure it, and see where its time
        goes: `tvmopt compile model.onnx`, then `tvmopt benchmark model.tvmpkg`.
        """
        if ctx.invoked_subcommand is None:
            click.echo(ctx.get_help())
        session = ctx.find_object(Session)
        if session is not None:
            session.command = ctx.invoked_subcommand or ""

    for command in COMMANDS:
        cli.add_command(command)
    plugins.register_commands(cli)
    return cli
