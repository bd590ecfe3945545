"""`tvmopt plugins`: what is plugged in, what each brings, and what is broken."""

from collections.abc import Mapping
from dataclasses import asdict, fields

import click

from tvmopt.cli.console import print_json
from tvmopt.cli.options import json_option, verbose_option
from tvmopt.cli.session import Session
from tvmopt.plugins import PluginInfo, Plugins


@click.command("plugins", short_help="Lists plugins, and why the bad ones are bad.")
@json_option
@verbose_option
@click.pass_obj
def plugins_command(session: Session, *, as_json: bool) -> None:
    """Lists plugins, what each registers, and why the bad ones are bad.

    TVMOPT_DISABLE_PLUGINS=1 switches off all that do not come with tvmopt, =NAME,NAME those.
    """
    plugins = session.plugins
    if as_json:
        print_json(
            {
                "plugins": [asdict(info) for info in plugins.infos],
                "passes": _all_options(plugins.passes),
                "calibrators": _all_options(plugins.calibrators),
                "datasets": _all_options(plugins.datasets),
                "metrics": _all_options(plugins.metrics),
            }
        )
        return
    for info in plugins.infos:
        if not info.error:
            _show(info, plugins, verbose=session.verbose)
    for info in plugins.bad:
        click.echo(f"{_heading(info)}\n  NOT LOADED: {info.error}")


def _show(info: PluginInfo, plugins: Plugins, *, verbose: bool) -> None:
    click.echo(_heading(info))
    registered = {
        "backends": info.backends,
        "passes": info.passes,
        "calibrators": info.calibrators,
        "datasets": info.datasets,
        "metrics": info.metrics,
        "commands": info.commands,
        "hooks": info.hooks,
    }
    for kind, names in registered.items():
        if names:
            click.echo(f"  {kind:<11}  {', '.join(names)}")
    if not info.hooks:
        click.echo("  registers nothing: it implements no hook (@tvmopt.hookimpl)")
    if verbose:
        for name in info.passes:
            one = plugins.passes[name]
            _show_options(f"{name} ({one.stage.name.lower()})", one)
        for name in info.calibrators:
            _show_options(f"{name} (calibrator)", plugins.calibrators[name])
        for name in info.datasets:
            _show_options(f"{name} (data set)", plugins.datasets[name])
        for name in info.metrics:
            _show_options(f"{name} (metric)", plugins.metrics[name])


def _show_options(title: str, one: type) -> None:
    click.echo(f"    {title}: {_first_line(one)}")
    for option, text in _options(one)["options"].items():
        click.echo(f"      {option}={text}")


def _heading(info: PluginInfo) -> str:
    source = f"{info.distribution} {info.version}".strip()
    return f"{info.name}  ({', '.join(part for part in (source, info.module) if part)})"


def _all_options(known: Mapping[str, type]) -> dict[str, dict[str, dict[str, str]]]:
    return {name: _options(one) for name, one in known.items()}


def _options(one: type) -> dict[str, dict[str, str]]:
    from dataclasses import MISSING

    defaults: dict[str, str] = {}
    for field in fields(one):
        if not field.init:
            continue
        kind = field.type if isinstance(field.type, str) else field.type.__name__
        default = "" if field.default is MISSING else f" (default {field.default})"
        defaults[field.name.replace("_", "-")] = f"{kind}{default}"
    return {"options": defaults}


def _first_line(item: type) -> str:
    return (item.__doc__ or "").strip().partition("\n")[0]
