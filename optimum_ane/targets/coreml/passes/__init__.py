"""Our own graph passes for coremltools, and where they stand among coremltools' own."""

import coremltools as ct

from optimum_ane.targets.coreml.passes.blocks_by_shuffle import blocks_by_shuffle
from optimum_ane.targets.coreml.passes.carry_layer_norm_rounding import carry_layer_norm_rounding
from optimum_ane.targets.coreml.passes.cast_to_float16 import cast_to_float16
from optimum_ane.targets.coreml.passes.clamp_for_float16 import clamp_for_float16
from optimum_ane.targets.coreml.passes.decompose_attention import decompose_attention
from optimum_ane.targets.coreml.passes.fold_constants import fold_constants
from optimum_ane.targets.coreml.passes.fold_layer_norm_affine import fold_layer_norm_affine
from optimum_ane.targets.coreml.passes.fold_normalization import fold_normalization
from optimum_ane.targets.coreml.passes.fold_rotation_sign import fold_rotation_sign
from optimum_ane.targets.coreml.passes.fold_scale_backwards import fold_scale_backwards
from optimum_ane.targets.coreml.passes.forget_output_types import forget_output_types
from optimum_ane.targets.coreml.passes.mask_by_product import mask_by_product
from optimum_ane.targets.coreml.passes.merge_moves import merge_moves
from optimum_ane.targets.coreml.passes.name_by_module import name_by_module
from optimum_ane.targets.coreml.passes.pick_by_mask import pick_by_mask
from optimum_ane.targets.coreml.passes.rms_norm_as_layer_norm import rms_norm_as_layer_norm
from optimum_ane.targets.coreml.passes.share_small_constants import share_small_constants
from optimum_ane.targets.coreml.passes.share_tied_tables import share_tied_tables
from optimum_ane.targets.coreml.passes.split_at_once import split_at_once
from optimum_ane.targets.coreml.passes.to_engine_layout import to_engine_layout

__all__ = [
    "blocks_by_shuffle",
    "carry_layer_norm_rounding",
    "cast_to_float16",
    "clamp_for_float16",
    "decompose_attention",
    "fold_constants",
    "fold_layer_norm_affine",
    "fold_normalization",
    "fold_rotation_sign",
    "fold_scale_backwards",
    "forget_output_types",
    "graph_pass_pipeline",
    "mask_by_product",
    "merge_moves",
    "name_by_module",
    "optimize_passes",
    "pass_pipeline",
    "pick_by_mask",
    "rms_norm_as_layer_norm",
    "share_small_constants",
    "share_tied_tables",
    "split_at_once",
    "stock_pass_pipeline",
    "to_engine_layout",
]

_CAST = "common::add_fp16_cast"

_OPTIMIZE_BEFORE = (
    "common::const_elimination",
    "common::dead_code_elimination",
    "common::noop_elimination",
    "common::fuse_layernorm_or_instancenorm",
    "common::fuse_gelu_tanh_approximation",
    "common::fuse_gelu_exact",
    "common::merge_consecutive_reshapes",
    "common::merge_consecutive_transposes",
    "optimum_ane::decompose_attention",
    "optimum_ane::blocks_by_shuffle",
)
"""What makes a program of any maker plain: the layout pass knows whole norms and activations, not their parts."""

_OPTIMIZE_AFTER = (
    "common::const_elimination",
    "common::dead_code_elimination",
    "common::noop_elimination",
    "optimum_ane::merge_moves",
    "common::reduce_transposes",
    "common::fuse_conv_scale",
    "common::fuse_conv_bias",
    "common::fuse_elementwise_to_batchnorm",
    "common::fuse_conv_batchnorm",
    "common::fuse_conv_scale",
    "common::fuse_conv_bias",
    "common::cast_optimization",
    "common::remove_redundant_ops",
    "common::const_elimination",
    "common::const_deduplication",
    "common::dead_code_elimination",
    "optimum_ane::share_tied_tables",
    "common::dead_code_elimination",
    "optimum_ane::share_small_constants",
    "mil_backend::sanitize_name_strings",
    "common::dedup_op_and_var_names",
    # Core ML wants every input to be read.
    "nn_backend::handle_unused_inputs",
)
"""What removes the rest of the old form and fuses what stands side by side now, and what coremltools does last."""


def pass_pipeline(precision: str, is_classifier: bool) -> ct.PassPipeline:
    """Returns the passes for a Neural Engine module: coremltools' defaults, and ours among them.

    The layer norms are fused before anything else: by default a norm whose weights are all ones and whose biases are
    all zeros loses its multiplication and its addition first, and is then no longer recognised: seven operations in
    place of one.

    Args:
        precision: `"float16"` or `"float32"`; only the former has rounding to carry.
        is_classifier: Whether the package will be a Core ML classifier.
    """
    pipeline = _default_passes("optimum_ane::carry_layer_norm_rounding")
    early = (
        "common::const_elimination",
        "common::fuse_layernorm_or_instancenorm",
        "optimum_ane::fold_layer_norm_affine",
    )
    for index, name in enumerate(early):
        pipeline.insert_pass(index, name)
    if precision != "float16":
        pipeline.remove_passes({"optimum_ane::carry_layer_norm_rounding"})
    if is_classifier:
        pipeline.append_pass("optimum_ane::forget_output_types")
    pipeline.append_pass("optimum_ane::share_small_constants")
    pipeline.append_pass("optimum_ane::name_by_module")
    return pipeline


def stock_pass_pipeline(precision: str) -> ct.PassPipeline:
    """Returns coremltools' default passes for a module as it is; of ours only the cast, which changes no result."""
    pipeline = _default_passes("optimum_ane::cast_to_float16")
    if precision != "float16":
        pipeline.remove_passes({"optimum_ane::cast_to_float16"})
    return pipeline


def graph_pass_pipeline(precision: str, is_classifier: bool, engine_layout: bool = True) -> ct.PassPipeline:
    """Returns the passes for a stock module: coremltools' defaults, and ours among them.

    Args:
        precision: `"float16"` or `"float32"`.
        is_classifier: Whether the package will be a Core ML classifier.
        engine_layout: Whether the program is rewritten into the engine's layout.
    """
    pipeline = pass_pipeline(precision, is_classifier)
    # What is made of constants is one for all passes, those that match patterns among them.
    pipeline.insert_pass(0, "optimum_ane::fold_constants")
    pipeline.insert_pass(1, "optimum_ane::pick_by_mask")
    pipeline.insert_pass(2, "optimum_ane::mask_by_product")
    place = pipeline.passes.index("common::dedup_op_and_var_names") + 1
    if engine_layout:
        # After the fusions, which know a stock module's operations, and before the cast, so that a norm's rounding is
        # carried into convolutions.
        layout = (
            "optimum_ane::decompose_attention",
            "optimum_ane::blocks_by_shuffle",
            "optimum_ane::to_engine_layout",
            "common::dead_code_elimination",
            "optimum_ane::merge_moves",
            "optimum_ane::fold_rotation_sign",
            "optimum_ane::split_at_once",
            # Before what makes weights of constants that differ.
            "optimum_ane::share_tied_tables",
            "optimum_ane::fold_scale_backwards",
            "common::fuse_conv_scale",
            "common::fuse_conv_bias",
            "common::fuse_conv_batchnorm",
            "common::noop_elimination",
            "common::dead_code_elimination",
            # The cast remembers what it has cast by its name.
            "common::dedup_op_and_var_names",
        )
        for index, name in enumerate(layout, place):
            pipeline.insert_pass(index, name)
    if precision == "float16":
        # Among whole norms, whose constants are no others, and before what makes weights of them.
        pipeline.insert_pass(place, "optimum_ane::clamp_for_float16")
        pipeline.insert_pass(place, "optimum_ane::rms_norm_as_layer_norm")
    # Before coremltools makes one operation, a batch norm, of the two that normalise.
    pipeline.insert_pass(pipeline.passes.index("common::const_elimination") + 1, "optimum_ane::fold_normalization")
    pipeline.set_options("optimum_ane::fold_normalization", {"precision": precision})
    return pipeline


def optimize_passes() -> ct.PassPipeline:
    """Returns the passes for a program that is there already, of whatever maker.

    Its types are settled, and so are the names of its inputs and outputs: nothing is cast, and none of our passes that
    need to know the module is among these.
    """
    return ct.PassPipeline([*_OPTIMIZE_BEFORE, "optimum_ane::to_engine_layout", *_OPTIMIZE_AFTER], "optimize")


def _default_passes(cast: str) -> ct.PassPipeline:
    """Coremltools' defaults with another pass in place of its cast to float16."""
    pipeline = ct.PassPipeline.DEFAULT
    pipeline.passes = [cast if name == _CAST else name for name in pipeline.passes]
    return pipeline
