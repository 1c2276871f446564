import coremltools as ct
import pytest
import torch
from coremltools.converters.mil.frontend.torch.torch_op_registry import _TORCH_OPS_REGISTRY
from tiny_models import ARCHITECTURES, TASKS, answer, least_psnr, make_inputs, make_original
from torch import nn

from optimum_ane.errors import UnsupportedModelError
from optimum_ane.package.form import ExportForm
from optimum_ane.runtimes.portable import PortableSession
from optimum_ane.targets.coreml.stock import convert_stock, output_names

# Its mask is one of pairs: a row of padding sees nothing but -inf, which float16 makes of the mask's fill, and the
# softmax of that is NaN.
NAMES = [name for name in ARCHITECTURES if name not in ("camembert", "xlm-roberta", "electra:wide")]  # as others
CLASSIFIER = ExportForm("text-classification")
NAN_AT_PADDING = [name for name in ARCHITECTURES if name.startswith("deberta-v2")]


def outputs_of(package, task, inputs, folder):
    path = folder / "stock.mlpackage"
    package.save(str(path))
    outputs = PortableSession(path).predict({name: value.int().numpy() for name, value in inputs.items()})
    assert list(outputs) == list(output_names(task))
    return [torch.from_numpy(output).float() for output in outputs.values()]


@pytest.mark.parametrize("name", NAMES)
def test_every_architecture_converts_as_it_is_and_answers_as_the_original(name, tmp_path):
    original = make_original(name, "text-classification")
    inputs = make_inputs(original, rows=8, length=16)
    if name in NAN_AT_PADDING:
        inputs["attention_mask"][:] = 1
    package = convert_stock(original, CLASSIFIER, inputs)
    ours = outputs_of(package, "text-classification", inputs, tmp_path)
    assert least_psnr(answer(original, inputs), tuple(ours), inputs["attention_mask"]) >= 50


@pytest.mark.parametrize("task", [task for task in TASKS if task != "text-classification"])
def test_every_head_converts_as_it_is(task, tmp_path):
    original = make_original("bert", task)
    inputs = make_inputs(original, rows=4, length=16)
    ours = outputs_of(convert_stock(original, ExportForm(task), inputs), task, inputs, tmp_path)
    theirs = [value.reshape(mine.shape) for value, mine in zip(answer(original, inputs), ours, strict=True)]
    assert least_psnr(theirs, tuple(ours), inputs["attention_mask"]) >= 50


def test_precision_and_target_are_those_asked_for_and_the_translations_are_as_before():
    before = dict(_TORCH_OPS_REGISTRY.name_to_func_mapping)
    original = make_original("distilbert", "text-classification", num_hidden_layers=1)
    inputs = make_inputs(original, rows=1, length=8)
    form = ExportForm("text-classification", precision="float32", minimum_deployment_target="ios17")
    specification = convert_stock(original, form, inputs).get_spec()
    assert specification.specificationVersion == ct.target.iOS17.value
    (output,) = specification.description.output
    assert output.type.multiArrayType.dataType == ct.proto.FeatureTypes_pb2.ArrayFeatureType.FLOAT32
    with pytest.raises(UnsupportedModelError):
        convert_stock(_Untranslatable(), CLASSIFIER, {"input_ids": torch.ones(1, 4).long()})
    assert _TORCH_OPS_REGISTRY.name_to_func_mapping == before


class _Untranslatable(nn.Module):
    def forward(self, input_ids):
        return {"logits": torch.special.bessel_j0(input_ids.float())}


class _Untraceable(nn.Module):
    def forward(self, input_ids):
        raise ZeroDivisionError("of no use")


def test_what_cannot_be_converted_is_said_in_one_line_with_the_reason():
    inputs = {"input_ids": torch.ones(1, 4).long()}
    with pytest.raises(UnsupportedModelError, match=r"_Untranslatable has no stock.*'special_bessel_j0' not impl"):
        convert_stock(_Untranslatable(), CLASSIFIER, inputs)
    with pytest.raises(UnsupportedModelError, match="ZeroDivisionError: of no use"):
        convert_stock(_Untraceable(), CLASSIFIER, inputs)
