"""The ways into the blocked layout `[N, ceil(C / b), H, W, b]` and out of it."""

from typing import Any

from tvm import te, tirx


def blocks_of(channels: int, block: int) -> int:
    """Number of blocks that hold `channels` channels."""
    return -(-channels // block)


def split_channels(data: te.Tensor, block: int) -> te.Tensor:
    """`[N, C, H, W]` in blocks of `block` channels; the last one is filled up with zeros."""
    batch, channels, height, width = (int(dim) for dim in data.shape)

    def read(n: tirx.Expr, c: tirx.Expr, y: tirx.Expr, x: tirx.Expr, b: tirx.Expr) -> Any:
        channel = c * block + b
        if channels % block == 0:
            return data[n, channel, y, x]
        zero = tirx.const(0, data.dtype)
        return tirx.if_then_else(channel < channels, data[n, channel, y, x], zero)

    shape = (batch, blocks_of(channels, block), height, width, block)
    result: Any = te.compute(shape, read, name="split_channels")
    return result


def join_channels(data: te.Tensor, channels: int) -> te.Tensor:
    """A blocked image as `[N, channels, H, W]`; what the last block holds beyond is dropped."""
    batch, _, height, width, block = (int(dim) for dim in data.shape)
    result: Any = te.compute(
        (batch, channels, height, width),
        lambda n, c, y, x: data[n, tirx.floordiv(c, block), y, x, tirx.floormod(c, block)],
        name="join_channels",
    )
    return result
