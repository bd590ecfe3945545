"""Which operators can be converted, and by what: our converters first, then TVM's own."""

from collections.abc import Mapping

from onnx import NodeProto
from tvm.relax.frontend.onnx import onnx_frontend

from tvmopt.compiler.importer.draft import DEFAULT_DOMAINS
from tvmopt.compiler.importer.node import Converter
from tvmopt.compiler.importer.ops import (
    activation,
    convolution,
    elementwise,
    guards,
    integer,
    normalization,
    pooling,
    quantization,
    recurrent,
    reduction,
    resize,
    shape,
    slicing,
)

CONVERTERS: Mapping[str, Converter] = {
    **activation.CONVERTERS,
    **convolution.CONVERTERS,
    **elementwise.CONVERTERS,
    **integer.CONVERTERS,
    **normalization.CONVERTERS,
    **pooling.CONVERTERS,
    **quantization.CONVERTERS,
    **recurrent.CONVERTERS,
    **reduction.CONVERTERS,
    **resize.CONVERTERS,
    **shape.CONVERTERS,
    **slicing.CONVERTERS,
}
"""Converters of ours: TVM's would compute wrongly, or emit kernels that no pass sees into."""

GUARDS = guards.GUARDS
"""Checks of nodes before TVM's converter gets them, by operator."""

_DATA_DEPENDENT = "the shape of its output depends on data, and shapes must be static"
_SEQUENCES = "values that are no tensors are not supported"

REFUSED: Mapping[str, str] = {
    "AllClassNMS": _DATA_DEPENDENT,
    "Compress": _DATA_DEPENDENT,
    "NonMaxSuppression": f"{_DATA_DEPENDENT}; export the model without it",
    "NonZero": _DATA_DEPENDENT,
    "Unique": _DATA_DEPENDENT,
    "ConcatFromSequence": _SEQUENCES,
    "Optional": _SEQUENCES,
    "OptionalGetElement": _SEQUENCES,
    "OptionalHasElement": _SEQUENCES,
    "SequenceAt": _SEQUENCES,
    "SequenceConstruct": _SEQUENCES,
    "SequenceEmpty": _SEQUENCES,
    "SequenceErase": _SEQUENCES,
    "SequenceInsert": _SEQUENCES,
    "SequenceLength": _SEQUENCES,
    "SplitToSequence": _SEQUENCES,
    "Loop": "loops are not supported",
    "Scan": "loops are not supported",
}
"""Operators that are not converted although TVM has a converter for some, and why."""

DEFINED = frozenset({"Attention", "MeanVarianceNormalization"})
"""Expanded to ONNX's definition: TVM's `Attention` is another operator of the same name (of the
domain com.microsoft), its MeanVarianceNormalization lacks the epsilon."""

TVM_CONVERTERS: Mapping[str, type[onnx_frontend.OnnxOpConverter]] = onnx_frontend._get_convert_map()  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]


def is_supported(node: NodeProto) -> bool:
    """Whether a node can be converted as it is, without expanding it."""
    if node.domain not in DEFAULT_DOMAINS or node.op_type in REFUSED or node.op_type in DEFINED:
        return False
    return node.op_type in CONVERTERS or node.op_type in TVM_CONVERTERS
