"""Functions of several packages in one, against coremltools' own way and against the packages themselves."""

import shutil
from collections import Counter

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb  # noqa: N813 - the spelling of coremltools' documentation
from coremltools.converters.mil.mil import types
from stored_programs import content_of, stored_arrays

from optimum_ane.errors import PackageError, UnsupportedModelError
from optimum_ane.runtimes.portable import PortableSession
from optimum_ane.runtimes.portable.package import Package
from optimum_ane.targets.coreml.multifunction import functions_of, merge_functions, split_function

LENGTHS = (8, 16)
NAMES = ("seq_8", "seq_16")


@pytest.fixture(scope="module")
def singles(tiny_package):
    """One package for each length, by the name that the function is to have."""
    return {
        f"seq_{length}": tiny_package(
            "bert", "text-classification", sequence_length=length, minimum_deployment_target="iOS18"
        )
        / "model.mlpackage"
        for length in LENGTHS
    }


@pytest.fixture(scope="module")
def merged(singles, tmp_path_factory):
    path = tmp_path_factory.mktemp("merged") / "model.mlpackage"
    merge_functions(singles, path, default="seq_16")
    return path


def inputs_of(session, seed=0):
    generator = np.random.default_rng(seed)
    shape = session.inputs["input_ids"].shape
    return {
        "input_ids": generator.integers(5, 90, shape).astype(np.int32),
        "attention_mask": (np.arange(shape[1]) < 6).astype(np.int32)[None],
        "token_type_ids": generator.integers(0, 2, shape).astype(np.int32),
    }


def test_it_is_what_coremltools_makes_of_them(singles, merged, tmp_path):
    described = ct.utils.MultiFunctionDescriptor()
    for name, path in singles.items():
        described.add_function(str(path), src_function_name="main", target_function_name=name)
    described.default_function_name = "seq_16"
    ct.utils.save_multifunction(described, str(tmp_path / "theirs.mlpackage"))
    ours, theirs = Package(merged).spec, Package(tmp_path / "theirs.mlpackage").spec
    assert ours.specificationVersion == theirs.specificationVersion
    assert list(ours.description.functions) == list(theirs.description.functions)
    assert ours.description.defaultFunctionName == theirs.description.defaultFunctionName == "seq_16"
    for name in NAMES:
        assert ours.mlProgram.functions[name].opset == theirs.mlProgram.functions[name].opset
        assert content_of(merged, name) == content_of(tmp_path / "theirs.mlpackage", name)
        answers = [PortableSession(path, name) for path in (merged, tmp_path / "theirs.mlpackage")]
        first, second = (session.predict(inputs_of(session))["logits"] for session in answers)
        np.testing.assert_array_equal(first, second)
    assert Counter(stored_arrays(merged)) == Counter(stored_arrays(tmp_path / "theirs.mlpackage"))


@pytest.mark.parametrize("name", NAMES)
def test_each_function_is_that_of_its_package(singles, merged, name):
    assert content_of(merged, name) == content_of(singles[name])
    alone, together = PortableSession(singles[name]), PortableSession(merged, name)
    assert together.inputs == alone.inputs
    assert together.outputs == alone.outputs
    for seed in range(3):
        inputs = inputs_of(alone, seed)
        np.testing.assert_array_equal(together.predict(inputs)["logits"], alone.predict(inputs)["logits"])


def test_each_weight_is_there_once(singles, merged):
    stored = stored_arrays(merged)
    assert len(set(stored)) == len(stored)
    wanted = {array for path in singles.values() for array in stored_arrays(path)}
    assert set(stored) == wanted
    assert len(wanted) < 1.1 * len(set(stored_arrays(singles["seq_16"])))


def test_metadata_is_that_of_the_default_function_and_meanings_are_each_ones_own(singles, merged, tmp_path):
    description = Package(merged).spec.description
    assert description.metadata == Package(singles["seq_16"]).spec.description.metadata
    assert description.metadata.userDefined["sequence_length"] == "16"
    assert description.metadata.author
    assert [function.name for function in description.functions] == list(NAMES)
    for function in description.functions:
        single = Package(singles[function.name]).spec.description
        assert list(function.input) == list(single.input)
        assert list(function.output) == list(single.output)
        assert all(feature.shortDescription for feature in (*function.input, *function.output))
    merge_functions(singles, tmp_path / "other.mlpackage", default="seq_8")
    other = Package(tmp_path / "other.mlpackage").spec
    assert functions_of(other) == ("seq_8", "seq_16")
    assert other.description.metadata.userDefined["sequence_length"] == "8"


@pytest.mark.parametrize("name", NAMES)
def test_a_function_taken_out_is_the_package_that_it_came_from(singles, merged, tmp_path, name):
    split_function(merged, name, tmp_path / "one.mlpackage")
    assert content_of(tmp_path / "one.mlpackage") == content_of(singles[name])
    assert Counter(stored_arrays(tmp_path / "one.mlpackage")) == Counter(set(stored_arrays(singles[name])))
    one, before = Package(tmp_path / "one.mlpackage").spec, Package(singles[name]).spec
    assert one.specificationVersion == before.specificationVersion
    for features in ("input", "output", "state"):
        assert list(getattr(one.description, features)) == list(getattr(before.description, features))
    assert one.description.metadata == Package(merged).spec.description.metadata
    assert functions_of(one) == ("main",)
    ct.models.MLModel(str(tmp_path / "one.mlpackage"), skip_model_load=True)


def test_nothing_else_is_left_beside_them(merged):
    assert [path.name for path in merged.parent.iterdir()] == ["model.mlpackage"]


def test_the_functions_of_a_classifier_keep_their_label(tiny_package, tmp_path):
    options = {"minimum_deployment_target": "iOS18", "class_labels": True}
    single = tiny_package("bert", "text-classification", **options) / "model.mlpackage"
    merge_functions({"one": single, "two": single}, tmp_path / "model.mlpackage", default="one")
    for function in Package(tmp_path / "model.mlpackage").spec.description.functions:
        assert function.predictedFeatureName == "classLabel"
        assert function.predictedProbabilitiesName == "classLabel_probs"
    split_function(tmp_path / "model.mlpackage", "two", tmp_path / "two.mlpackage")
    assert Package(tmp_path / "two.mlpackage").spec.description.predictedFeatureName == "classLabel"
    session = PortableSession(tmp_path / "model.mlpackage", "two")
    expected = PortableSession(single).predict(inputs_of(session))
    assert session.predict(inputs_of(session))["classLabel"] == expected["classLabel"]


def save(body, path, *shapes, target=ct.target.iOS18):
    specs = [mb.TensorSpec(shape=shape, dtype=types.fp32) for shape in shapes]
    model = ct.convert(
        mb.program(input_specs=specs, opset_version=target)(body),
        convert_to="mlprogram",
        minimum_deployment_target=target,
        compute_precision=ct.precision.FLOAT32,
        pass_pipeline=ct.PassPipeline.EMPTY,
        skip_model_load=True,
    )
    model.save(str(path))
    return path


VALUES = np.arange(48, dtype=np.float32)


def test_the_same_bytes_in_another_shape_or_type_are_another_weight(tmp_path):
    shapes = {"row": (1, 48), "column": (48, 1)}

    def sum_of(shape):
        return lambda x: mb.add(x=x, y=VALUES.reshape(shape))

    sources = {name: save(sum_of(shape), tmp_path / f"{name}.mlpackage", shape) for name, shape in shapes.items()}
    words = VALUES.view(np.int32).reshape(1, 48)
    sources["integers"] = save(
        lambda x: mb.gather(x=x, indices=mb.minimum(x=words, y=0), axis=1), tmp_path / "integers.mlpackage", (1, 48)
    )
    sources["again"] = sources["row"]
    merge_functions(sources, tmp_path / "merged.mlpackage", default="row")
    stored = stored_arrays(tmp_path / "merged.mlpackage")
    assert [data for _, data in stored] == [VALUES.tobytes()] * 3
    assert len({kind for kind, _ in stored}) == 2
    for name in shapes:
        x = np.ones(shapes[name], np.float32)
        (answer,) = PortableSession(tmp_path / "merged.mlpackage", name).predict({"x": x}).values()
        np.testing.assert_array_equal(answer, VALUES.reshape(shapes[name]) + 1)


def test_weights_inside_blocks_are_moved_too(tmp_path):
    def body(x):
        return mb.cond(
            pred=mb.greater(x=mb.reduce_sum(x=x), y=0.0),
            _true_fn=lambda: mb.add(x=x, y=VALUES),
            _false_fn=lambda: mb.mul(x=x, y=VALUES[::-1].copy()),
        )

    path = save(body, tmp_path / "a.mlpackage", (48,))
    other = save(lambda x: mb.sub(x=x, y=VALUES[::-1].copy()), tmp_path / "b.mlpackage", (48,))
    merge_functions({"branches": path, "plain": other}, tmp_path / "merged.mlpackage", default="plain")
    assert len(stored_arrays(tmp_path / "merged.mlpackage")) == 2
    session = PortableSession(tmp_path / "merged.mlpackage", "branches")
    for sign in (1, -1):
        x = np.full(48, sign, np.float32)
        (answer,) = session.predict({"x": x}).values()
        np.testing.assert_array_equal(answer, x + VALUES if sign > 0 else x * VALUES[::-1])


def test_what_cannot_be_merged_is_refused(singles, merged, tiny_package, tmp_path):
    old = tiny_package("bert", "text-classification") / "model.mlpackage"
    target = tmp_path / "out.mlpackage"
    with pytest.raises(UnsupportedModelError, match=r"is for a system older than iOS18, .* export for iOS18 or later"):
        merge_functions({"a": singles["seq_8"], "b": old}, target, default="a")
    with pytest.raises(PackageError, match="has the functions seq_16, seq_8"):
        merge_functions({"a": singles["seq_8"], "b": merged}, target, default="a")
    later = save(lambda x: mb.add(x=x, y=VALUES), tmp_path / "later.mlpackage", (48,), target=ct.target.iOS26)
    with pytest.raises(PackageError, match=r"a: CoreML8, b: CoreML9"):
        merge_functions({"a": singles["seq_8"], "b": later}, target, default="a")
    with pytest.raises(PackageError, match=r"no function 'main'; it has seq_16, seq_8"):
        split_function(merged, "main", target)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["later.mlpackage"]


def test_a_damaged_weight_file_is_refused(singles, tmp_path):
    broken = tmp_path / "broken.mlpackage"
    shutil.copytree(singles["seq_8"], broken)
    weights = broken / "Data/com.apple.CoreML/weights/weight.bin"
    weights.write_bytes(weights.read_bytes()[:-200])
    with pytest.raises(PackageError, match=r"is said to be at byte \d+ of a weight file of \d+ bytes"):
        merge_functions({"a": singles["seq_16"], "b": broken}, tmp_path / "out.mlpackage", default="a")
    assert not (tmp_path / "out.mlpackage").exists()
