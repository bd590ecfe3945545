"""Fixes every open dimension of the inputs, by what the user said of them."""

import ast
import operator
from collections.abc import Callable, Mapping

from onnx import TensorShapeProto, ValueInfoProto

from tvmopt.compiler.importer.draft import Draft
from tvmopt.errors import ModelError, UsageError, unknown_name
from tvmopt.model import ModelSource

_OPERATORS: Mapping[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.floordiv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_FUNCTIONS: Mapping[str, Callable[..., int]] = {"max": max, "min": min}


def freeze(draft: Draft, source: ModelSource) -> None:
    """Gives every input a static shape.

    A dimension is known by its name in the file; an unnamed one is called `<input>_dim_<axis>`.
    Composite ones, such as `past+sequence`, follow from their parts.

    Raises:
        UsageError: a name that the model does not have, or a shape that contradicts the file.
        ModelError: dimensions stay open; the hint holds the exact flags.
    """
    inputs = list(draft.graph.input)
    known = [value.name for value in inputs]
    for name in source.input_shapes:
        if name not in known:
            raise unknown_name("input", name, known)
    for value in inputs:
        _name_dims(value, source.input_shapes.get(value.name))
    sizes = dict(source.dims)
    for value in inputs:
        if value.name in source.input_shapes:
            _bind(value, source.input_shapes[value.name], sizes, source.dims)
    _check_dims(inputs, source.dims)
    open_dims: list[tuple[str, int, str]] = []
    for value in inputs:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.HasField("dim_value"):
                continue
            size = evaluate(dim.dim_param, sizes)
            if size is None:
                open_dims.append((value.name, axis, dim.dim_param))
            else:
                _check_size(value.name, axis, dim.dim_param, size)
                dim.dim_value = size
    if open_dims:
        raise _open(open_dims, sizes)


def _name_dims(value: ValueInfoProto, given: tuple[int, ...] | None) -> None:
    """Names unnamed dimensions; each its own, since nothing says that two are equal."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        if given is None:
            raise ModelError(
                f"input '{value.name}' has no shape in the file, not even a rank",
                f"give all of it: --input-shapes {value.name}:1,3,224,224 (for example)",
            )
        tensor.shape.SetInParent()
        for _ in given:
            tensor.shape.dim.add()
    for axis, dim in enumerate(tensor.shape.dim):
        if dim.HasField("dim_value") and dim.dim_value <= 0:
            if given is None and dim.dim_value == 0:
                raise ModelError(
                    f"dimension {axis} of input '{value.name}' is 0: the tensor is empty",
                    f"if it stands for an open one, give the shape: --input-shapes {value.name}:"
                    + ",".join(str(d.dim_value or "N") for d in tensor.shape.dim),
                )
            dim.Clear()
        if not dim.HasField("dim_value") and not dim.dim_param.strip():
            dim.dim_param = f"{value.name}_dim_{axis}"


def _bind(
    value: ValueInfoProto,
    shape: tuple[int, ...],
    sizes: dict[str, int],
    dims: Mapping[str, int],
) -> None:
    file_dims = list(value.type.tensor_type.shape.dim)
    if len(file_dims) != len(shape):
        raise UsageError(
            f"input '{value.name}' has {len(file_dims)} dimensions, {_show(file_dims)}, "
            f"but a shape with {len(shape)} is given: {list(shape)}"
        )
    for axis, (dim, size) in enumerate(zip(file_dims, shape, strict=True)):
        _check_size(value.name, axis, dim.dim_param, size)
        if dim.HasField("dim_value"):
            if dim.dim_value != size:
                raise UsageError(
                    f"dimension {axis} of input '{value.name}' is {dim.dim_value} in the file, "
                    f"but {size} is given"
                )
            continue
        name = dim.dim_param
        if sizes.setdefault(name, size) != size:
            origin = "by --dim" if name in dims else "for another input"
            raise UsageError(
                f"dimension '{name}' is {size} in the shape given for input '{value.name}', "
                f"but {sizes[name]} {origin}"
            )


def _check_size(name: str, axis: int, dim: str, size: int) -> None:
    if size < 1:
        called = f" ('{dim}')" if dim else ""
        raise UsageError(f"dimension {axis}{called} of input '{name}' must be positive, not {size}")


def _check_dims(inputs: list[ValueInfoProto], dims: Mapping[str, int]) -> None:
    names: set[str] = set()
    for value in inputs:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                names |= {dim.dim_param, *parts(dim.dim_param)}
    for name, size in dims.items():
        if name not in names:
            raise unknown_name("open dimension", name, names)
        if size < 1:
            raise UsageError(f"dimension '{name}' must be positive, not {size}")


def _open(open_dims: list[tuple[str, int, str]], sizes: Mapping[str, int]) -> ModelError:
    wanted: dict[str, None] = {}
    for _, _, param in open_dims:
        missing = [name for name in parts(param) if name not in sizes]
        wanted |= dict.fromkeys(missing or [param])
    shown = "; ".join(
        f"dimension {axis} ('{param}') of input '{name}'" for name, axis, param in open_dims[:4]
    )
    more = f" and {len(open_dims) - 4} more" if len(open_dims) > 4 else ""
    flags = " ".join(f"--dim {_quoted(name)}=1" for name in wanted)
    return ModelError(
        f"shapes must be static, but {shown}{more} {'is' if len(open_dims) == 1 else 'are'} open",
        f"fix {'it' if len(open_dims) == 1 else 'them'}, for example with {flags}",
    )


def _quoted(name: str) -> str:
    return name if name.replace("_", "").replace(".", "").isalnum() else f"'{name}'"


def _show(dims: list[TensorShapeProto.Dimension]) -> str:
    shown = ", ".join(str(d.dim_value) if d.HasField("dim_value") else d.dim_param for d in dims)
    return f"[{shown}]"


def parts(param: str) -> list[str]:
    """The names in a composite dimension: `a` and `b` of `a+b*2`; a plain name is its own part."""
    tree = _parse(param)
    if tree is None:
        return [param]
    names = [node.id for node in ast.walk(tree) if isinstance(node, ast.Name)]
    return [name for name in dict.fromkeys(names) if name.lower() not in _FUNCTIONS]


def evaluate(param: str, sizes: Mapping[str, int]) -> int | None:
    """The size of a dimension, or None when its name or a part of it has none."""
    if param in sizes:
        return sizes[param]
    tree = _parse(param)
    return None if tree is None else _value(tree.body, sizes)


def _parse(param: str) -> ast.Expression | None:
    try:
        return ast.parse(param.strip(), mode="eval")
    except (SyntaxError, ValueError):
        return None


def _value(node: ast.expr, sizes: Mapping[str, int]) -> int | None:
    match node:
        case ast.Constant(value=int(number)):
            return number
        case ast.Name(id=name):
            return sizes.get(name)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            value = _value(operand, sizes)
            return None if value is None else -value
        case ast.BinOp(left=left, op=op, right=right):
            compute = _OPERATORS.get(type(op))
            values = [_value(left, sizes), _value(right, sizes)]
            return _apply(compute, values)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]):
            return _apply(_FUNCTIONS.get(name.lower()), [_value(arg, sizes) for arg in args])
        case _:
            return None


def _apply(compute: Callable[..., int] | None, values: list[int | None]) -> int | None:
    given = [value for value in values if value is not None]
    if compute is None or len(given) < len(values):
        return None
    try:
        return compute(*given)
    except (ArithmeticError, TypeError):
        return None
