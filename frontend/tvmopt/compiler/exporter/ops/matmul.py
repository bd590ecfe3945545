"""Products of matrices."""

from tvmopt.compiler.exporter.draft import Site


def matmul(site: Site) -> str:
    """A product; one of 8-bit integers with int32 sums."""
    if site.dtype() == "int32" and site.dtype(0) in ("int8", "uint8"):
        return site.last("MatMulInteger", site.tensor(0), site.tensor(1))
    return site.last("MatMul", site.tensor(0), site.tensor(1))


WRITERS = {"relax.matmul": matmul}
