"""What a package of images holds besides its program: the processor's files, labels, previews, metadata, Swift."""

import dataclasses
import json
import re

import coremltools as ct
import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers import (
    AutoImageProcessor,
    BitImageProcessor,
    ConvNextImageProcessor,
    DetrImageProcessor,
    DPTImageProcessor,
    GLPNImageProcessor,
    MobileViTImageProcessor,
    ViTConfig,
    ViTImageProcessor,
    pipeline,
)

from optimum_ane import ANEModelForImageClassification, export
from optimum_ane.errors import UnsupportedModelError
from optimum_ane.exporters.image_size import fit_of, size_of, with_size
from optimum_ane.hub.card_package import read_card_package
from optimum_ane.hub.swift import swift_snippet
from optimum_ane.package.manifest import Manifest
from optimum_ane.runtimes.portable import PortableSession, enable_predict
from optimum_ane.workflows.program_metadata import preview_entries

LABELS = {0: "tabby cat", 1: "dog", 2: "bird"}
CONFIG = ViTConfig(
    hidden_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=64,
    image_size=(16, 32),
    patch_size=8,
    id2label=LABELS,
)
CROPPED = BitImageProcessor(
    size={"shortest_edge": 48}, crop_size={"height": 40, "width": 40}, image_std=[0.2, 0.3, 0.4]
)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A Core ML classifier of 16 × 32 pixels, of a checkpoint whose processor crops squares of 40."""
    torch.manual_seed(0)
    original = transformers.ViTForImageClassification(CONFIG).eval().requires_grad_(False)
    original.classifier.weight.data *= 20
    path = tmp_path_factory.mktemp("packages") / "out"
    options = {"image_size": (16, 32), "class_labels": True, "processor": CROPPED}
    return original, export(original, path, quiet=True, **options).path


def read_description(path):
    return ct.utils.load_spec(str(path / "model.mlpackage")).description


def photo():
    rows, columns = np.mgrid[0:90, 0:150]
    return Image.fromarray(np.stack([rows * 2, columns, (rows + columns) % 256], -1).astype(np.uint8))


def test_the_processor_of_a_package_makes_the_exported_size(classifier):
    original, path = classifier
    processor = AutoImageProcessor.from_pretrained(path)
    values = processor(photo(), return_tensors="pt")["pixel_values"]
    assert values.shape == (1, 3, 16, 32)
    assert processor.do_center_crop
    assert processor.size["shortest_edge"] == round(48 * 32 / 40)
    ours = pipeline(
        "image-classification", model=ANEModelForImageClassification.from_pretrained(path), image_processor=processor
    )
    theirs = pipeline("image-classification", model=original, image_processor=processor)
    answer, expected = ours(photo()), theirs(photo())
    assert [each["label"] for each in answer] == [each["label"] for each in expected]
    assert answer[0]["score"] == pytest.approx(expected[0]["score"], abs=2e-3)


def test_a_classifier_names_the_label_and_the_probabilities(classifier):
    original, path = classifier
    picture = photo().resize((32, 16))
    values = AutoImageProcessor.from_pretrained(path)(picture, do_resize=False, return_tensors="pt")["pixel_values"]
    scores = original(values).logits[0].softmax(-1)
    with enable_predict():
        answer = ct.models.MLModel(str(path / "model.mlpackage")).predict({"pixel_values": picture})
    assert answer["classLabel"] == LABELS[int(scores.argmax())]
    for index, label in LABELS.items():
        assert answer["classLabel_probs"][label] == pytest.approx(float(scores[index]), abs=2e-3)


def test_what_the_program_says_of_itself(classifier):
    _, path = classifier
    description = read_description(path)
    entries = description.metadata.userDefined
    exporters = {name.rpartition(".")[2]: value for name, value in entries.items() if "huggingface" in name}
    assert exporters == {
        "name": "ViTForImageClassification",
        "task": "image-classification",
        "architecture": "ViTForImageClassification",
        "framework": "pytorch",
        "precision": "float16",
    }
    assert entries["com.apple.coreml.model.preview.type"] == "imageClassifier"
    assert "com.apple.coreml.model.preview.params" not in entries
    assert json.loads(entries["labels"]) == [*LABELS.values()]
    (image,) = description.input
    assert image.shortDescription.startswith("Image of the exported size, RGB")
    assert all(output.shortDescription for output in description.output)
    assert (image.type.imageType.width, image.type.imageType.height) == (32, 16)


def test_the_manifest_says_how_images_get_their_size(classifier):
    _, path = classifier
    manifest = Manifest.read(path)
    assert (manifest.image.fit, manifest.image.normalization.layout) == ("crop", "RGB")
    assert manifest.programs[0].functions[0].inputs[0].meaning.startswith("Image of the exported size, RGB")


def test_swift_of_a_classifier_reads_observations_of_vision(classifier):
    _, path = classifier
    swift = swift_snippet(read_card_package("", path))
    assert "imageCropAndScaleOption = .centerCrop" in swift
    assert "VNClassificationObservation" in swift
    assert "MLShapedArray" not in swift
    assert "16 × 32 pixels" in swift
    assert swift.count("{") == swift.count("}")
    assert not re.search(r"\{[a-z_]+\}", swift)


def test_the_card_says_who_does_what(classifier):
    card = (classifier[1] / "README.md").read_text()
    assert "eight bits a channel, RGB, and 16 × 32 pixels. Resizing is the caller's" in card
    assert "scaled until it covers that size, and cut off at both ends" in card
    assert "![What becomes of an image, and who does it" in card


def test_a_package_of_before_has_tensors(tmp_path, classifier):
    """Version 2.3 of the manifest knew no images but as tensors."""
    _, path = classifier
    entries = json.loads((path / "ane_config.json").read_text())
    for name in ("normalization", "fit"):
        del entries["image"][name]
    del entries["form"]["image_input"]
    (tmp_path / "ane_config.json").write_text(json.dumps(entries | {"minor_version": 3}))
    manifest = Manifest.read(tmp_path)
    assert (manifest.image.normalization, manifest.image.fit, manifest.form.image_input) == (None, "", None)


class TestPreviews:
    def manifest(self, classifier, task, **form):
        manifest = Manifest.read(classifier[1])
        return dataclasses.replace(
            manifest, form=dataclasses.replace(manifest.form, task=task, **({"class_labels": False} | form))
        )

    def test_a_segmenter_has_a_colour_for_each_label(self, classifier):
        entries = preview_entries(self.manifest(classifier, "image-segmentation", postprocess=True))
        assert entries["com.apple.coreml.model.preview.type"] == "imageSegmenter"
        parameters = json.loads(entries["com.apple.coreml.model.preview.params"])
        assert parameters["labels"] == [*LABELS.values()]
        assert all(re.fullmatch("#[0-9A-F]{6}", color) for color in parameters["colors"])
        assert len(set(parameters["colors"])) == len(LABELS)

    def test_depth_has_no_parameters(self, classifier):
        entries = preview_entries(self.manifest(classifier, "depth-estimation", postprocess=True))
        assert entries["com.apple.coreml.model.preview.type"] == "depthEstimation"
        assert entries["com.apple.coreml.model.preview.params"] is None

    def test_without_labels_in_the_program_or_an_image_there_is_none(self, classifier):
        for task in ("image-classification", "image-segmentation", "depth-estimation"):
            assert preview_entries(self.manifest(classifier, task)) == {}
        manifest = self.manifest(classifier, "depth-estimation", postprocess=True)
        image = dataclasses.replace(manifest.image, normalization=None)
        assert preview_entries(dataclasses.replace(manifest, image=image)) == {}


class TestSizes:
    @pytest.mark.parametrize(
        ("processor", "size", "fit"),
        [
            (ViTImageProcessor(), (48, 96), "fill"),
            (CROPPED, (48, 96), "crop"),
            (ConvNextImageProcessor(size={"shortest_edge": 96}), (64, 64), "crop"),
            (MobileViTImageProcessor(), (64, 64), "pad"),
            (DetrImageProcessor(), (48, 96), "fill"),
            (DPTImageProcessor(keep_aspect_ratio=True, ensure_multiple_of=14), (50, 96), "fill"),
        ],
        ids=["stretched", "cropped", "cropped by a share", "padded", "by the shortest edge", "in multiples"],
    )
    def test_a_processor_is_set_to_a_size(self, processor, size, fit):
        before = processor.to_dict()
        changed = with_size(processor, size, 3)
        assert size_of(changed, 3) == size
        assert processor.to_dict() == before
        assert fit_of(changed, 3) == fit
        for picture in (photo(), photo().resize((41, 200))):
            given = changed(picture, return_tensors="np")
            assert given["pixel_values"].shape == (1, 3, *size)
            assert "pixel_mask" not in given

    def test_what_makes_the_size_stays_as_it_is(self):
        assert with_size(CROPPED, (40, 40), 3) is CROPPED

    def test_what_cannot_be_set_is_refused(self):
        with pytest.raises(UnsupportedModelError, match=r"cannot be set to make images of 48 × 96 pixels"):
            with_size(GLPNImageProcessor(), (48, 96), 3)


def test_class_labels_of_other_tasks_are_refused():
    from optimum_ane.package.form import ExportForm

    with pytest.raises(UnsupportedModelError, match="class labels are for the tasks image-classification and text"):
        ExportForm(task="depth-estimation", class_labels=True)


def test_the_portable_runtime_takes_what_core_ml_takes(classifier):
    """The example of a card's Python: a picture of the exported size, of the mode of its layout."""
    session = PortableSession(classifier[1] / "model.mlpackage")
    answer = session.predict({"pixel_values": photo().resize((32, 16))})
    assert answer["classLabel"] in LABELS.values()
