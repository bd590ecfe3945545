"""`tvmopt inspect`: what is in a model, or in a package."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tvmopt.cli.console import print_fields, print_json, print_table, shape_text, size_text
from tvmopt.cli.options import (
    json_option,
    parse_dims,
    parse_input_shapes,
    shape_options,
    verbose_option,
)
from tvmopt.cli.quantization import check_report, report_option
from tvmopt.cli.session import Session
from tvmopt.errors import UsageError
from tvmopt.model import ModelSource

if TYPE_CHECKING:
    import onnx

    from tvmopt.compiler.manifest import Manifest


@click.command("inspect", short_help="Shows what is in a model or a package.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--capability", is_flag=True, help="For a model: which of its operators compile.")
@shape_options
@report_option
@json_option
@verbose_option
@click.pass_obj
def inspect_command(
    session: Session,
    file: Path,
    *,
    capability: bool,
    input_shapes: tuple[str, ...],
    dims: tuple[str, ...],
    html: Path | None,
    as_json: bool,
) -> int:
    """Shows what is in FILE, an ONNX model or a .tvmpkg package.

    With --capability, exits with 4 if the model holds something that cannot be compiled.
    """
    if _is_package(file):
        if capability:
            raise UsageError(f"'{file}' is a package; --capability is for models")
        check_report(html)
        _inspect_package(file, html, as_json=as_json, verbose=session.verbose)
        return 0
    if html is not None:
        raise UsageError(f"'{file}' is a model; --report is for packages")
    if capability:
        from tvmopt.cli.capability import inspect_capability

        source = ModelSource(file, parse_input_shapes(input_shapes), parse_dims(dims))
        return inspect_capability(source, as_json=as_json)
    if input_shapes or dims:
        raise UsageError("shapes and dimensions are for --capability, which is not given")
    from tvmopt.compiler.importer.read import read_proto

    model = read_proto(file)
    data = _describe_model(file, model)
    if as_json:
        print_json(data)
    else:
        _show_model(data)
    return 0


def _is_package(file: Path) -> bool:
    if file.suffix == ".tvmpkg":
        return True
    try:
        with file.open("rb") as stream:
            return file.suffix != ".onnx" and stream.read(4) == b"PK\3\4"
    except OSError:
        return False


def _describe_model(file: Path, model: "onnx.ModelProto") -> dict[str, Any]:
    from onnx import TensorProto, helper

    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    elements = 0
    for tensor in graph.initializer:
        size = 1
        for dim in tensor.dims:
            size *= dim
        elements += size
    external = [t for t in graph.initializer if t.data_location == TensorProto.EXTERNAL]
    folder = file.parent
    places = {e.value for t in external for e in t.external_data if e.key == "location"}
    outside = sum((folder / p).stat().st_size for p in places if (folder / p).is_file())

    def tensors(values: Any) -> list[dict[str, Any]]:
        return [
            {
                "name": value.name,
                "dtype": str(
                    helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name
                    if value.type.tensor_type.elem_type
                    else value.type.WhichOneof("value")
                ),
                "shape": [
                    d.dim_value if d.HasField("dim_value") else d.dim_param or "?"
                    for d in value.type.tensor_type.shape.dim
                ]
                if value.type.tensor_type.HasField("shape")
                else ["..."],
            }
            for value in values
        ]

    return {
        "file": str(file),
        "size_bytes": file.stat().st_size + outside,
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
        "ir_version": model.ir_version,
        "opsets": {opset.domain or "ai.onnx": opset.version for opset in model.opset_import},
        "inputs": tensors(value for value in graph.input if value.name not in weights),
        "outputs": tensors(graph.output),
        "parameters": elements,
        "nodes": len(graph.node),
        "operators": dict(Counter(_op_name(node) for node in graph.node).most_common()),
    }


def _op_name(node: "onnx.NodeProto") -> str:
    domain = "" if node.domain in ("", "ai.onnx") else f"{node.domain}::"
    return domain + node.op_type


def _show_model(data: dict[str, Any]) -> None:
    opsets = ", ".join(f"{domain} {version}" for domain, version in data["opsets"].items())
    print_fields(
        [
            ("model", f"{data['file']} ({size_text(data['size_bytes'])})"),
            ("made by", data["producer"] or "unknown"),
            ("opset", f"{opsets} (IR version {data['ir_version']})"),
            ("parameters", f"{data['parameters']:,}"),
            ("nodes", data["nodes"]),
        ]
    )
    rows = [
        (kind, tensor["name"], shape_text(tensor["dtype"], tensor["shape"]))
        for kind, tensors in (("input", data["inputs"]), ("output", data["outputs"]))
        for tensor in tensors
    ]
    print_table("inputs and outputs", ("", "name", "type"), rows)
    print_table("operators", ("operator", "nodes"), data["operators"].items(), ("nodes",))
    is_open = [d for tensor in data["inputs"] for d in tensor["shape"] if not isinstance(d, int)]
    if is_open:
        first = next((d for d in is_open if d not in ("?", "...")), None)
        how = f"--dim {first}=SIZE" if first else "--input-shapes NAME:[...]"
        click.echo(f"open dimensions are fixed by `tvmopt compile {how}`", err=True)


def _inspect_package(file: Path, html: Path | None, *, as_json: bool, verbose: bool) -> None:
    from dataclasses import asdict

    from tvmopt.compiler.archive import ArchiveReader
    from tvmopt.compiler.manifest import read_manifest

    with ArchiveReader(file) as archive:
        manifest = read_manifest(archive)
        for name, member in manifest.members.items():
            archive.check(name, member)
    if html is not None:
        from tvmopt.cli.html_report import write_package_report

        write_package_report(html, file)
    if as_json:
        data = asdict(manifest)
        del data["weights"]
        print_json({"file": str(file), "size_bytes": file.stat().st_size, **data})
        return
    _show_package(file, manifest, verbose=verbose)


def _show_package(file: Path, manifest: "Manifest", *, verbose: bool) -> None:
    from tvmopt.cli.quantization_table import print_quantization, summary
    from tvmopt.cli.reporting import (
        gate_text,
        print_layers,
        print_passes,
        print_remarks,
        print_verification,
        speed_text,
        verification_text,
    )

    target, report = manifest.target, manifest.report
    print_fields(
        [
            ("package", f"{file} ({size_text(file.stat().st_size)})"),
            ("model", manifest.model),
            ("made by", f"tvmopt {manifest.tvmopt_version}, TVM {manifest.tvm_version}"),
            ("target", f"{target.name} ({target.arch}: {', '.join(target.isa) or 'any CPU'})"),
            ("seconds", ", ".join(f"{k} {v:.1f}" for k, v in report.seconds.items())),
            ("verified", verification_text(manifest.verification)),
            *([("accuracy", gate_text(report.accuracy))] if report.accuracy else []),
            *([("speed", speed_text(report.speed))] if report.speed else []),
            *([("quantized", summary(report.quantization))] if report.quantization else []),
            *((k, size_text(member.size_bytes)) for k, member in manifest.members.items()),
        ]
    )
    rows = [
        (kind, spec.name, shape_text(spec.dtype, spec.shape))
        for kind, specs in (("input", manifest.inputs), ("output", manifest.outputs))
        for spec in specs
    ]
    print_table("inputs and outputs", ("", "name", "type"), rows)
    if manifest.verification:
        print_verification(manifest.verification)
    print_quantization(report.quantization, verbose=verbose)
    print_passes(report)
    print_layers(report)
    print_remarks(report, ("passed", "missed", "analysis") if verbose else ("missed", "analysis"))
