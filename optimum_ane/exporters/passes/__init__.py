"""Our own graph passes for coremltools, and where they stand among coremltools' own."""

import coremltools as ct

from optimum_ane.exporters.passes.carry_layer_norm_rounding import carry_layer_norm_rounding
from optimum_ane.exporters.passes.fold_layer_norm_affine import fold_layer_norm_affine

__all__ = ["carry_layer_norm_rounding", "fold_layer_norm_affine", "pass_pipeline"]


def pass_pipeline(precision: str) -> ct.PassPipeline:
    """Returns coremltools' default passes, with the layer norms fused before anything else.

    By default a norm whose weights are all ones and whose biases are all zeros loses its multiplication and its
    addition first, and is then no longer recognised: seven operations in place of one.

    Args:
        precision: `"float16"` or `"float32"`; only the former has rounding to carry.
    """
    pipeline = ct.PassPipeline.DEFAULT
    early = [
        "common::const_elimination",
        "common::fuse_layernorm_or_instancenorm",
        "optimum_ane::fold_layer_norm_affine",
    ]
    if precision == "float16":
        early.append("optimum_ane::carry_layer_norm_rounding")
    for index, name in enumerate(early):
        pipeline.insert_pass(index, name)
    return pipeline
