"""`tvmopt targets`: what `--target` accepts."""

import click

from tvmopt.cli.console import print_fields, print_json
from tvmopt.cli.options import json_option, verbose_option
from tvmopt.cli.session import Session


@click.command()
@json_option
@verbose_option
@click.pass_obj
def targets(session: Session, *, as_json: bool) -> None:
    """Lists the hardware that models can be compiled for."""
    plugins = session.plugins
    backends = sorted(plugins.backends.values(), key=lambda b: b.name)
    if as_json:
        print_json(
            [
                {
                    "name": backend.name,
                    "description": backend.description,
                    "options": dict(backend.option_names),
                    "devices": [
                        {"name": d.name, "description": d.description, "options": dict(d.options)}
                        for d in backend.devices
                    ],
                    "plugin": plugins.origins[backend],
                    "class": f"{backend.__module__}.{backend.__qualname__}",
                }
                for backend in backends
            ]
        )
        return
    rows: list[tuple[str, str]] = []
    for backend in backends:
        rows.append((backend.name, backend.description))
        rows += [(f"  {d.name}", d.description) for d in backend.devices]
        rows += [(f"  ,{key}=...", text) for key, text in backend.option_names.items()]
    print_fields(rows)
    if not rows:
        click.echo("no backend is installed; `tvmopt plugins` says what went wrong")
