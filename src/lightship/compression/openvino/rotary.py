"""Undoes what SmoothQuant does to tables of rotary frequencies.

NNCF 3.4 takes the product of positions and frequencies for a layer: it divides positions by a scale (100 on a Llama)
and multiplies frequencies with it, which are stored in 16 bits and so rounded once more. What that loses grows with the
position: up to 2^-11 of the angle, half a radian at position 1,000. Nothing is gained, as this product is never
quantized.
"""

from __future__ import annotations

from typing import Any

_WEIGHT_DIMENSIONS = 2  # tables have three
_SCALED = "nncf_smooth_quant"


def restore_tables(model: Any, original: Any) -> int:
    """Number of products of `model` that multiply with the table of `original` again.

    Args:
        model: The quantized network.
        original: The network it was made from; products are found by name.

    Effects: changes `model`.
    """
    import openvino

    tables = {
        node.get_friendly_name(): table
        for node in original.get_ops()
        if node.get_type_name() == "MatMul" and (table := _table(node)) is not None
    }
    num_restored = 0
    for node in model.get_ops():
        kept = tables.get(node.get_friendly_name()) if node.get_type_name() == "MatMul" else None
        if kept is None or (table := _table(node)) is None:
            continue
        factors = (node.input_value(port).get_node() for port in (0, 1))
        scale = next((factor for factor in factors if _SCALED in factor.get_friendly_name()), None)
        if scale is None:
            continue
        copy = openvino.op.Constant(kept.data, shared_memory=False)
        copy.set_friendly_name(table.get_friendly_name())
        for user in list(table.output(0).get_target_inputs()):
            user.replace_source_output(copy.output(0))
        for user in list(scale.output(0).get_target_inputs()):
            user.replace_source_output(scale.input_value(0))
        num_restored += 1
    model.validate_nodes_and_infer_types()
    return num_restored


def _table(product: Any) -> Any | None:
    """The constant of more than two dimensions that the product reads, possibly converted."""
    for port in (0, 1):
        node = product.input_value(port).get_node()
        if node.get_type_name() == "Convert":
            node = node.input_value(0).get_node()
        if node.get_type_name() == "Constant" and len(node.get_shape()) > _WEIGHT_DIMENSIONS:
            return node
    return None
