"""Products of matrices."""

from tvmopt.compiler.exporter.draft import Site
from tvmopt.rewriting import is_op


def matmul(site: Site) -> str:
    """A product; one of 8-bit integers with int32 sums."""
    if site.dtype() == "int32" and site.dtype(0) in ("int8", "uint8"):
        return site.last("MatMulInteger", site.tensor(0), site.tensor(1))
    return site.last("MatMul", site.tensor(0), site.tensor(1))


def write_gemm(site: Site, product: Site, bias: str) -> str:
    """A product of matrices and a bias per column."""
    weight = product.call.args[1]
    transposed = site.graph.producer(weight)
    if is_op(transposed, "relax.permute_dims"):
        right = product.tensor_of(transposed.args[0], "1")
        return site.last("Gemm", product.tensor(0), right, bias, transB=1)
    return site.last("Gemm", product.tensor(0), product.tensor(1), bias)


WRITERS = {"relax.matmul": matmul}
