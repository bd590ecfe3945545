"""One-dimensional convolutions as two-dimensional ones of height 1, which layouts know."""

from tvm import relax

from tvmopt.rewriting import Graph, Rewrite, attrs_of, constant_value, is_op, shape_of

_UNARY = (
    "relax.nn.relu",
    "relax.nn.gelu",
    "relax.nn.gelu_tanh",
    "relax.nn.silu",
    "relax.nn.leakyrelu",
    "relax.clip",
    "relax.sigmoid",
    "relax.tanh",
    "relax.erf",
    "relax.exp",
    "relax.negative",
    "relax.sqrt",
)
_BINARY = ("relax.add", "relax.subtract", "relax.multiply", "relax.divide")
_POOLS = {
    "relax.nn.max_pool1d": relax.op.nn.max_pool2d,
    "relax.nn.avg_pool1d": relax.op.nn.avg_pool2d,
}


def convolve_in_two_dimensions() -> Rewrite:
    """`conv1d(x[N, C, W]) = conv2d(x[N, C, 1, W])[:, :, 0, :]`; exact.

    What lies between two convolutions (bias, activation, normalization, pooling, residual add)
    is done in four dimensions too, so that no reshape stands in the way of layouts and fusion.
    """
    lifted: set[relax.Expr] = set()

    def lift(expr: relax.Expr, graph: Graph) -> relax.Expr | None:
        """The four-dimensional form of an operand, if it has one for free."""
        source = graph.producer(expr)
        if is_op(source, "relax.reshape") and source.args[0] in lifted:
            return source.args[0]
        shape = shape_of(expr)
        if constant_value(expr) is None or shape is None or len(shape) not in (0, 1, 2, 3):
            return None
        if len(shape) < 2:
            return expr  # a scalar, or one value per position: broadcasts as before
        return graph.emit(relax.op.reshape(expr, _high(shape)))

    def lower(value: relax.Expr, shape: tuple[int, ...], graph: Graph) -> relax.Expr:
        var = graph.emit(value)
        lifted.add(var)
        return relax.op.reshape(var, shape)

    def rewrite(value: relax.Expr, graph: Graph) -> relax.Expr | None:
        shape = shape_of(value)
        if shape is None or len(shape) != 3:
            return None
        if isinstance(value, relax.TupleGetItem):
            return _normalize(value, shape, graph)
        if not isinstance(value, relax.Call):
            return None
        if is_op(value, "relax.nn.conv1d"):
            return _convolve(value, shape, graph)
        if is_op(value, *_UNARY, *_POOLS):
            data = lift(value.args[0], graph)
            if data is None or constant_value(value.args[0]) is not None:
                return None
            if is_op(value, *_POOLS):
                return lower(_pool(value, data), shape, graph)
            args = [data, *value.args[1:]]
            return lower(relax.Call(value.op, args, value.attrs, value.ty_args), shape, graph)
        if is_op(value, *_BINARY):
            if any(
                shape_of(arg) == shape and constant_value(arg) is not None for arg in value.args
            ):
                return None
            first, second = (lift(arg, graph) for arg in value.args)
            if first is None or second is None or not ({first, second} & lifted):
                return None
            return lower(relax.Call(value.op, [first, second]), shape, graph)
        return None

    def _convolve(value: relax.Call, shape: tuple[int, ...], graph: Graph) -> relax.Expr | None:
        attrs = attrs_of(value)
        data, weight = value.args
        wide, filters = shape_of(data), shape_of(weight)
        if attrs.data_layout != "NCW" or attrs.kernel_layout != "OIW":
            graph.missed(f"its layouts are {attrs.data_layout} and {attrs.kernel_layout}")
            return None
        if wide is None or filters is None:
            return None
        image = lift(data, graph)
        if image is None:
            image = graph.emit(relax.op.reshape(data, _high(wide)))
        before, after = (int(n) for n in attrs.padding)
        flat = relax.op.nn.conv2d(
            image,
            graph.emit(relax.op.reshape(weight, _high(filters))),
            strides=(1, int(attrs.strides[0])),
            padding=(0, before, 0, after),
            dilation=(1, int(attrs.dilation[0])),
            groups=attrs.groups,
            out_dtype=attrs.out_dtype,
        )
        graph.passed("a one-dimensional convolution became one of height 1")
        return lower(flat, shape, graph)

    def _normalize(
        value: relax.TupleGetItem, shape: tuple[int, ...], graph: Graph
    ) -> relax.Expr | None:
        source = graph.producer(value.tuple_value)
        if value.index != 0 or not is_op(source, "relax.nn.batch_norm"):
            return None
        data = lift(source.args[0], graph)
        if data is None or int(attrs_of(source).axis) != 1:
            return None
        both = graph.emit(relax.Call(source.op, [data, *source.args[1:]], source.attrs))
        return lower(relax.TupleGetItem(both, 0), shape, graph)

    return rewrite


def _pool(value: relax.Call, data: relax.Expr) -> relax.Expr:
    attrs = attrs_of(value)
    before, after = (int(n) for n in attrs.padding)
    name: str = getattr(value.op, "name", "")
    return _POOLS[name](
        data,
        pool_size=(1, int(attrs.pool_size[0])),
        strides=(1, int(attrs.strides[0])),
        padding=(0, before, 0, after),
        dilation=(1, int(attrs.dilation[0])),
        ceil_mode=attrs.ceil_mode,
        count_include_pad=attrs.count_include_pad,
    )


def _high(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape[:-1], 1, shape[-1])
