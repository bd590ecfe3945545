"""Operators that only move elements."""

from tvm import relax

from tvmopt.compiler.exporter.draft import Site


def reshape(site: Site) -> str:
    """Any operator that keeps the order of the elements: the shape is known."""
    return site.last("Reshape", site.tensor(0), site.ints(site.shape(), "shape"))


def transpose(site: Site) -> str:
    """A transpose."""
    rank, axes = len(site.shape()), site.attrs.axes
    order = list(range(rank))[::-1] if axes is None else [int(axis) % rank for axis in axes]
    return site.last("Transpose", site.tensor(0), perm=order)


def concat(site: Site) -> str:
    """A concatenation."""
    parts = site.call.args[0]
    if not isinstance(parts, relax.Tuple):
        raise site.error("its operands are no tuple")
    tensors = [site.tensor_of(part, str(index)) for index, part in enumerate(parts.fields)]
    return site.last("Concat", *tensors, axis=int(site.attrs.axis or 0))


def split(site: Site) -> tuple[str, ...]:
    """Parts along an axis."""
    axis = int(site.attrs.axis)
    fields = site.call.ty.fields
    sizes = [int(field.shape[axis]) for field in fields]
    outputs = tuple(site.draft.fresh(f"{site.output}.{index}") for index in range(len(fields)))
    inputs = [site.tensor(0), site.ints(sizes, "split")]
    site.draft.node("Split", inputs, outputs[0], site.draft.fresh(site.name), axis=axis)
    site.draft.nodes[-1].output.extend(outputs[1:])
    return outputs


def strided_slice(site: Site) -> str:
    """A slice with constant bounds."""
    lists: list[list[int]] = []
    for arg in site.call.args[1:]:
        if not isinstance(arg, relax.Tuple):
            raise site.error("its bounds are not constant")
        lists.append([int(item) for item in arg.fields])
    axes, begins, ends, *steps = lists
    inputs = [site.ints(begins, "starts"), site.ints(ends, "ends"), site.ints(axes, "axes")]
    if steps:
        inputs.append(site.ints(steps[0], "steps"))
    return site.last("Slice", site.tensor(0), *inputs)


def take(site: Site) -> str:
    """Slices by their index along an axis."""
    axis = site.attrs.axis
    if axis is None and len(site.shape(0)) != 1:
        raise site.error("it has no axis")
    return site.last("Gather", site.tensor(0), site.tensor(1), axis=int(axis or 0))


def broadcast(site: Site) -> str:
    """A tensor repeated along axes of size 1."""
    return site.last("Expand", site.tensor(0), site.ints(site.shape(), "shape"))


def tile(site: Site) -> str:
    """A tensor repeated as a whole."""
    repeats = [int(count) for count in site.attrs.repeats]
    if len(repeats) != len(site.shape(0)):
        raise site.error("it has not one count for each axis")
    return site.last("Tile", site.tensor(0), site.ints(repeats, "repeats"))


def pad(site: Site) -> str:
    """Padding with a constant, or by what lies inside."""
    modes = {"constant": "constant", "edge": "edge", "reflect": "reflect"}
    mode = str(site.attrs.pad_mode)
    if mode not in modes:
        raise site.error(f"its mode is '{mode}'")
    widths = [int(width) for width in site.attrs.pad_width]
    inputs = [site.tensor(0), site.ints([*widths[::2], *widths[1::2]], "pads")]
    if mode == "constant":
        inputs.append(site.scalar(float(site.attrs.pad_value)))
    return site.last("Pad", *inputs, mode=modes[mode])


WRITERS = {
    "relax.broadcast_to": broadcast,
    "relax.concat": concat,
    "relax.expand_dims": reshape,
    "relax.flatten": reshape,
    "relax.nn.pad": pad,
    "relax.permute_dims": transpose,
    "relax.reshape": reshape,
    "relax.split": split,
    "relax.squeeze": reshape,
    "relax.strided_slice": strided_slice,
    "relax.take": take,
    "relax.tile": tile,
}
