"""Texts of images: a ViT and a GPT-2 exported, loaded, and asked to write, beside transformers."""

import numpy as np
import pytest
import torch
from encoder_decoders import make_captioner
from PIL import Image
from swift_checks import check_writer, swift_of
from tiny_models import make_tokenizer, psnr
from transformers import AutoImageProcessor, AutoTokenizer, ViTImageProcessor

from optimum_ane import ANEModelForImageTextToText, export
from optimum_ane.errors import InputError, UnsupportedModelError
from optimum_ane.evaluation.datasets import DatasetSpec
from optimum_ane.evaluation.evaluator import get_evaluator
from optimum_ane.evaluation.preprocessors import load_preprocessor
from optimum_ane.package.manifest import Manifest

PROCESSOR = ViTImageProcessor(size={"height": 24, "width": 24})
FORM = {"context_length": 20, "quiet": True}


def pictures(count=2):
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 256, (40, 30, 3), dtype=np.uint8)) for _ in range(count)]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    original = make_captioner(32)  # with a projection between the halves
    output = tmp_path_factory.mktemp("captions") / "out"
    result = export(original, output, tokenizer=make_tokenizer(), processor=PROCESSOR, **FORM)
    return original, result, ANEModelForImageTextToText.from_pretrained(output)


def test_the_package_says_what_it_is(exported):
    original, result, _ = exported
    manifest = Manifest.read(result.path)
    assert (manifest.form.task, manifest.modality, manifest.form.kv_cache) == ("image-to-text", "image", "state")
    encoder, decoder = manifest.programs
    (pixels,) = encoder.functions[0].inputs
    assert (pixels.name, pixels.shape) == ("pixel_values", (1, 3, 24, 24))
    assert manifest.image.normalization.layout == "RGB"
    begin = next(f for f in decoder.functions if f.name == "begin")
    assert begin.inputs[0].shape == (1, 10, original.config.encoder.hidden_size)
    assert min(result.report.module_psnr.values()) > 120
    assert min(result.report.package_psnr.values()) > 60


@pytest.mark.parametrize("settings", [{}, {"num_beams": 3}])
def test_it_writes_what_the_original_writes(exported, settings):
    original, result, model = exported
    processor = AutoImageProcessor.from_pretrained(result.path)
    pixels = processor(pictures(), return_tensors="pt")["pixel_values"]
    arguments = {"max_new_tokens": 10} | settings
    written = model.generate(pixels, **arguments)
    assert written.tolist() == original.generate(pixels, **arguments).tolist()
    assert AutoTokenizer.from_pretrained(result.path).batch_decode(written) == make_tokenizer().batch_decode(written)


def test_captions_are_scored_beside_the_originals(exported, tmp_path):
    original, result, model = exported
    for index, picture in enumerate(pictures(3)):
        picture.save(tmp_path / f"{index}.png")
    evaluator = get_evaluator("image-to-text", original.config, "image")
    examples = evaluator.load(DatasetSpec(str(tmp_path)))
    preprocessor = load_preprocessor(result.path, Manifest.read(result.path))
    report = evaluator.compare(original, model, preprocessor, examples, sequence_length=1, runtime="portable")
    assert (report.primary_metric, report.rows, report.agreement, report.drop) == ("exact_match", 3, 1, 0)


def test_the_swift_of_the_card_fits_the_programs(exported):
    swift = swift_of(exported[1].path)
    check_writer(exported[1].path, swift)
    assert "cgImage: image, pixelsWide: 24, pixelsHigh: 24" in swift
    assert "seen: 10, after: [0]" in swift


def test_logits_and_what_is_refused(exported):
    original, _, model = exported
    pixels = PROCESSOR(pictures(), return_tensors="pt")["pixel_values"]
    ids = torch.randint(3, 100, (2, 7), generator=torch.Generator().manual_seed(0))
    assert psnr(original(pixels, decoder_input_ids=ids).logits, model(pixels, ids).logits) > 55
    with pytest.raises(InputError, match="24 × 24"):
        model.generate(torch.zeros(1, 3, 32, 32))
    with pytest.raises(InputError, match="no pixel_values"):
        model(None, ids)


def test_an_encoder_of_something_else_is_refused(tmp_path):
    with pytest.raises(UnsupportedModelError, match="is for rows of tokens"):
        export(make_captioner(), tmp_path / "out", processor=PROCESSOR, sequence_length=12, task="image-to-text")
