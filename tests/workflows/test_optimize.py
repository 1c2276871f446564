"""Packages of other makers, rewritten: what stays as it was, what is proven, and what is refused."""

from __future__ import annotations

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb  # noqa: N813 - the spelling of coremltools' documentation
from coremltools.converters.mil.mil import types
from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass
from coremltools.converters.mil.mil.passes.pass_registry import register_pass
from stock_packages import KINDS, LABELS, compressed, convert_encoder, convert_program, counting_program, save
from stored_programs import WEIGHTS

import optimum_ane
from optimum_ane.errors import OutputError, PackageError, UnsupportedModelError, ValidationError
from optimum_ane.runtimes.portable import PortableSession
from optimum_ane.targets.coreml.passes import optimize_passes
from optimum_ane.workflows import optimize as workflow

TARGETS = ["iOS15", "iOS16", "iOS17", "iOS18", "iOS26"]


def files(package):
    return {path.relative_to(package): path.read_bytes() for path in package.rglob("*") if path.is_file()}


def operations(package, function="main"):
    """The types of all operations of a function, constants and compressed weights included."""
    function = ct.utils.load_spec(str(package)).mlProgram.functions[function]
    return [operation.type for operation in function.block_specializations[function.opset].operations]


def optimize(source, output, **options):
    return optimum_ane.optimize(source, output, quiet=True, **options)


@pytest.mark.parametrize("target", TARGETS)
def test_what_a_package_says_of_itself_stays(target, tmp_path):
    source = save(convert_encoder(ct.target[target]), tmp_path / "stock.mlpackage")
    before = files(source)
    result = optimize(source, tmp_path / "out.mlpackage")
    old, new = (ct.utils.load_spec(str(path)) for path in (source, result.path))
    assert new.description == old.description
    assert new.description.metadata.author == "Somebody"
    assert new.specificationVersion == old.specificationVersion
    assert new.mlProgram.functions["main"].opset == old.mlProgram.functions["main"].opset
    assert new.mlProgram.functions["main"].inputs == old.mlProgram.functions["main"].inputs
    assert result.target == target
    assert result.functions["main"].psnr["hidden"] >= 60
    assert result.functions["main"].after.share_on_ane > 0.95 > result.functions["main"].before.share_on_ane
    assert files(source) == before


def test_a_classifier_keeps_its_labels(tmp_path):
    source = save(convert_encoder(classifier=True), tmp_path / "stock.mlpackage")
    result = optimize(source, tmp_path / "out.mlpackage")
    old, new = (ct.utils.load_spec(str(path)) for path in (source, result.path))
    assert new.description == old.description
    answer = PortableSession(result.path).predict({"ids": np.ones((1, 12), np.int32), "mask": np.ones((1, 12), int)})
    assert sorted(answer["classLabel_probs"]) == LABELS
    assert answer["classLabel"] in LABELS


def test_several_functions_stay_in_one_package_over_one_copy_of_their_weights(tmp_path):
    descriptor = ct.utils.MultiFunctionDescriptor()
    for tokens in (8, 12):
        single = save(convert_encoder(ct.target.iOS18, tokens=tokens), tmp_path / f"{tokens}.mlpackage")
        descriptor.add_function(str(single), "main", f"of_{tokens}")
    descriptor.default_function_name = "of_12"
    ct.utils.save_multifunction(descriptor, str(tmp_path / "stock.mlpackage"))
    result = optimize(tmp_path / "stock.mlpackage", tmp_path / "out.mlpackage")
    old, new = (ct.utils.load_spec(str(tmp_path / name)) for name in ("stock.mlpackage", "out.mlpackage"))
    assert new.description == old.description
    assert new.description.defaultFunctionName == "of_12"
    assert list(result.functions) == ["of_12", "of_8"]
    assert all(function.psnr["hidden"] >= 60 for function in result.functions.values())
    sizes = [(tmp_path / name / WEIGHTS).stat().st_size for name in ("stock.mlpackage", "out.mlpackage")]
    assert sizes[1] <= sizes[0]


@pytest.mark.parametrize("kind", KINDS)
def test_compressed_weights_stay_compressed(kind, tmp_path):
    source = save(compressed(kind), tmp_path / "stock.mlpackage")
    result = optimize(source, tmp_path / "out.mlpackage")
    kinds = [sorted(t for t in operations(path) if t.startswith("constexpr")) for path in (source, result.path)]
    assert kinds[0]
    assert kinds[1] == kinds[0]
    function = result.functions["main"]
    assert function.after.weight_bytes <= 1.01 * function.before.weight_bytes
    assert function.psnr["hidden"] >= 60


def test_states_are_compared_over_steps(tmp_path):
    result = optimize(save(counting_program(), tmp_path / "stock.mlpackage"), tmp_path / "out.mlpackage")
    assert list(result.functions["main"].psnr) == ["y", "total"]
    session = PortableSession(result.path)
    state = session.make_state()
    for _ in range(2):
        session.predict({"x": np.ones((1, 8), np.float16)}, state)
    np.testing.assert_array_equal(state.read("total"), np.full((1, 8), 2.0))


def test_images_and_whole_numbers_are_made_up(tmp_path):
    @mb.program(input_specs=[mb.TensorSpec(shape=(1, 3, 4, 4))], opset_version=ct.target.iOS16)
    def program(picture):
        return mb.reduce_argmax(x=mb.reduce_sum(x=picture, axes=[1], keep_dims=False), axis=2, name="where")

    model = convert_program(program, ct.target.iOS16, inputs=[ct.ImageType(name="picture", shape=(1, 3, 4, 4))])
    result = optimize(save(model, tmp_path / "stock.mlpackage"), tmp_path / "out.mlpackage")
    assert result.functions["main"].examples == 3
    assert result.functions["main"].psnr == {}  # whole numbers are equal or refused
    old, new = (ct.utils.load_spec(str(tmp_path / name)) for name in ("stock.mlpackage", "out.mlpackage"))
    assert new.description == old.description


def test_the_second_run_changes_nothing(tmp_path):
    source = save(convert_encoder(classifier=True), tmp_path / "stock.mlpackage")
    first = optimize(source, tmp_path / "first.mlpackage")
    second = optimize(first.path, tmp_path / "second.mlpackage")
    assert first.changed
    assert not second.changed
    assert files(second.path) == files(first.path)
    assert second.functions["main"].after == first.functions["main"].after


def test_a_package_that_gains_nothing_is_copied(tmp_path):
    """A convolution is in the engine's layout; so is whatever this library exports."""

    @mb.program(input_specs=[mb.TensorSpec(shape=(1, 2, 4, 4), dtype=types.fp16)], opset_version=ct.target.iOS17)
    def program(x):
        return mb.conv(x=x, weight=np.ones((2, 2, 3, 3), np.float16), name="y")

    source = save(convert_program(program, ct.target.iOS17), tmp_path / "stock.mlpackage")
    result = optimize(source, tmp_path / "out.mlpackage")
    assert not result.changed
    assert files(result.path) == files(source)
    raised = optimize(source, tmp_path / "raised.mlpackage", target="iOS18")
    assert not raised.changed
    assert ct.utils.load_spec(str(raised.path)).specificationVersion == 9


def test_the_target_is_raised_when_asked(tmp_path):
    source = save(convert_encoder(ct.target.iOS16), tmp_path / "stock.mlpackage")
    result = optimize(source, tmp_path / "out.mlpackage", target="macOS15")
    spec = ct.utils.load_spec(str(result.path))
    assert spec.specificationVersion == 9
    assert spec.mlProgram.functions["main"].opset == "CoreML8"
    assert result.changed


def test_own_inputs_are_compared_first(tmp_path):
    source = save(convert_encoder(), tmp_path / "stock.mlpackage")
    np.savez(tmp_path / "own.npz", ids=np.full((1, 12), 7, np.int32), mask=np.ones((1, 12), np.int32))
    result = optimize(source, tmp_path / "out.mlpackage", inputs=tmp_path / "own.npz")
    assert result.functions["main"].examples == 4


@register_pass(namespace="test_optimize")
class breaks_a_weight(AbstractGraphPass):  # noqa: N801 - passes are named by their class
    """Changes one number of a bias by little."""

    def apply(self, prog):
        for function in prog.functions.values():
            for layer in function.find_ops(op_type="linear")[-1:]:
                layer.bias.val[1] += 0.05


@register_pass(namespace="test_optimize")
class rounds_otherwise(AbstractGraphPass):  # noqa: N801 - passes are named by their class
    """Multiplies by three and divides by it, which changes nothing but the rounding."""

    def apply(self, prog):
        for function in prog.functions.values():
            for norm in function.find_ops(op_type="layer_norm")[:1]:
                with function:
                    last = mb.mul(x=norm.outputs[0], y=np.float16(3), before_op=norm.outputs[0].child_ops[0])
                    same = mb.real_div(x=last, y=np.float16(3), before_op=norm.outputs[0].child_ops[0])
                    function.replace_uses_of_var_after_op(
                        anchor_op=same.op, old_var=norm.outputs[0], new_var=same, force_replace=True
                    )


def test_an_error_tells_rounding_from_logic(tmp_path, monkeypatch):
    def passes():
        return ct.PassPipeline(["test_optimize::rounds_otherwise", *optimize_passes().passes], "rounding")

    monkeypatch.setattr(workflow, "optimize_passes", passes)
    source = save(convert_encoder(), tmp_path / "stock.mlpackage")
    with pytest.raises(ValidationError, match=r"comes of rounding to float16 in other places.* psnr_threshold"):
        optimize(source, tmp_path / "out.mlpackage", psnr_threshold=100)
    assert optimize(source, tmp_path / "out.mlpackage").changed


@register_pass(namespace="test_optimize")
class stumbles(AbstractGraphPass):  # noqa: N801 - passes are named by their class
    """Raises what has nothing to do with the program."""

    def apply(self, prog):
        {}["no such key"]


def test_a_pass_that_stumbles_is_a_refusal(tmp_path, monkeypatch):
    monkeypatch.setattr(workflow, "optimize_passes", lambda: ct.PassPipeline(["test_optimize::stumbles"], "stumbles"))
    source = save(convert_encoder(), tmp_path / "stock.mlpackage")
    with pytest.raises(UnsupportedModelError, match="does not bear this program: KeyError: 'no such key'"):
        optimize(source, tmp_path / "out.mlpackage")
    assert [path.name for path in tmp_path.iterdir()] == ["stock.mlpackage"]


def test_what_this_library_exports_gains_nothing(tiny_package, tmp_path):
    package = tiny_package("distilbert", "text-classification")
    result = optimize(package, tmp_path / "out.mlpackage")
    assert not result.changed
    assert files(result.path) == files(package / "model.mlpackage")


@pytest.fixture
def wrong_pass(monkeypatch):
    def passes():
        return ct.PassPipeline(["test_optimize::breaks_a_weight", *optimize_passes().passes], "wrong")

    monkeypatch.setattr(workflow, "optimize_passes", passes)


@pytest.mark.usefixtures("wrong_pass")
def test_a_wrong_pass_is_caught_and_nothing_is_written(tmp_path):
    source = save(convert_encoder(), tmp_path / "stock.mlpackage")
    with pytest.raises(ValidationError, match=r"PSNR of probabilities is \d.*no matter of rounding"):
        optimize(source, tmp_path / "out.mlpackage")
    assert [path.name for path in tmp_path.iterdir()] == ["stock.mlpackage"]


@pytest.mark.usefixtures("wrong_pass")
def test_what_was_there_stays_when_the_new_package_is_wrong(tmp_path):
    source = save(convert_encoder(), tmp_path / "stock.mlpackage")
    old = save(counting_program(), tmp_path / "out.mlpackage")
    before = files(old)
    with pytest.raises(ValidationError):
        optimize(source, old, overwrite=True)
    assert files(old) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.mlpackage", "stock.mlpackage"]


def test_overwriting_replaces_a_package_and_nothing_else(tmp_path):
    source = save(counting_program(), tmp_path / "stock.mlpackage")
    output = save(convert_encoder(), tmp_path / "out.mlpackage")
    with pytest.raises(OutputError, match="overwrite=True"):
        optimize(source, output)
    (output / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"holds 'notes\.txt', .*Manifest\.json does not list"):
        optimize(source, output, overwrite=True)
    (output / "notes.txt").unlink()
    optimize(source, output, overwrite=True)
    assert [*PortableSession(output).states] == ["total"]
    folder = tmp_path / "folder.mlpackage"
    folder.mkdir()
    (folder / "photo.jpg").write_bytes(b"")
    with pytest.raises(OutputError, match=r"holds no Manifest\.json"):
        optimize(source, folder, overwrite=True)


def test_refusals_before_any_work(tmp_path):
    source = save(convert_encoder(), tmp_path / "stock.mlpackage")
    with pytest.raises(OutputError, match=r"whose name ends with \.mlpackage"):
        optimize(source, tmp_path / "out")
    with pytest.raises(OutputError, match="read meanwhile"):
        optimize(source, source, overwrite=True)
    with pytest.raises(UnsupportedModelError, match="is for iOS17 and is not made for the older iOS16"):
        optimize(source, tmp_path / "out.mlpackage", target="iOS16")
    with pytest.raises(UnsupportedModelError, match="'iOS99' is unknown"):
        optimize(source, tmp_path / "out.mlpackage", target="iOS99")
    with pytest.raises(PackageError, match="does not exist"):
        optimize(tmp_path / "nothing.mlpackage", tmp_path / "out.mlpackage")


def test_compressed_weights_do_not_change_their_form(tmp_path):
    source = save(compressed("int8"), tmp_path / "stock.mlpackage")
    with pytest.raises(UnsupportedModelError, match="compressed weights, whose form is another from iOS18 on"):
        optimize(source, tmp_path / "out.mlpackage", target="iOS18")
    assert optimize(source, tmp_path / "out.mlpackage", target="iOS17").target == "iOS17"


def test_other_kinds_of_models_are_refused(tmp_path):
    network = ct.models.neural_network.NeuralNetworkBuilder(
        [("x", ct.models.datatypes.Array(3))], [("y", ct.models.datatypes.Array(3))]
    )
    network.add_activation("relu", "RELU", "x", "y")
    for name, spec in (("network", network.spec), ("pipeline", None)):
        path = tmp_path / f"{name}.mlpackage"
        if spec is None:
            spec = ct.proto.Model_pb2.Model(specificationVersion=6)
            spec.pipeline.models.add().CopyFrom(network.spec)
        ct.utils.save_spec(spec, str(path))
        with pytest.raises(PackageError, match="not an ML Program"):
            optimize(path, tmp_path / "out.mlpackage")


@pytest.mark.parametrize("shape", [ct.EnumeratedShapes([(1, 4), (1, 8)]), ct.Shape((1, ct.RangeDim(2, 8)))])
def test_flexible_shapes_are_refused(shape, tmp_path):
    class Twice(torch.nn.Module):
        def forward(self, x):
            return 2 * x

    model = ct.convert(
        torch.jit.trace(Twice(), torch.ones(1, 4)),
        inputs=[ct.TensorType(name="x", shape=shape)],
        minimum_deployment_target=ct.target.iOS16,
        skip_model_load=True,
    )
    with pytest.raises(UnsupportedModelError, match="takes 'x' in several shapes"):
        optimize(save(model, tmp_path / "stock.mlpackage"), tmp_path / "out.mlpackage")


def test_a_program_that_answers_nothing_finite_proves_nothing(tmp_path):
    @mb.program(input_specs=[mb.TensorSpec(shape=(2, 3), dtype=types.fp32)], opset_version=ct.target.iOS16)
    def program(x):
        return mb.real_div(x=x, y=mb.mul(x=x, y=0.0), name="y")

    source = save(convert_program(program, ct.target.iOS16), tmp_path / "stock.mlpackage")
    with pytest.raises(UnsupportedModelError, match=r"y holds NaN or infinity\).*give some of your own with inputs"):
        optimize(source, tmp_path / "out.mlpackage")
