"""Our own graph passes for coremltools, and where they stand among coremltools' own."""

import coremltools as ct

from optimum_ane.targets.coreml.passes.carry_layer_norm_rounding import carry_layer_norm_rounding
from optimum_ane.targets.coreml.passes.fold_layer_norm_affine import fold_layer_norm_affine
from optimum_ane.targets.coreml.passes.forget_output_types import forget_output_types

__all__ = ["carry_layer_norm_rounding", "fold_layer_norm_affine", "forget_output_types", "pass_pipeline"]


def pass_pipeline(precision: str, is_classifier: bool) -> ct.PassPipeline:
    """Returns coremltools' default passes, with the layer norms fused before anything else.

    By default a norm whose weights are all ones and whose biases are all zeros loses its multiplication and its
    addition first, and is then no longer recognised: seven operations in place of one.

    Args:
        precision: `"float16"` or `"float32"`; only the former has rounding to carry.
        is_classifier: Whether the package will be a Core ML classifier.
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
    if is_classifier:
        pipeline.append_pass("optimum_ane::forget_output_types")
    return pipeline
