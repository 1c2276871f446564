"""What users load: packages behind the interface of transformers models."""

import inspect
import logging
import shutil
import sys

import coremltools as ct
import numpy as np
import pytest
import torch
import transformers
from tiny_models import ARCHITECTURES, TASKS, answer, make_inputs, make_original, psnr, save_checkpoint
from transformers import AutoTokenizer, pipeline
from transformers.modeling_outputs import (
    BaseModelOutput,
    MaskedLMOutput,
    MultipleChoiceModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)

import optimum_ane
from optimum_ane.errors import (
    InputError,
    OutputError,
    PackageError,
    RuntimeUnavailableError,
)
from optimum_ane.modeling import model_class_of
from optimum_ane.runtimes import open_session
from optimum_ane.runtimes.coreml import CoreMLSession
from optimum_ane.runtimes.portable import PortableSession
from optimum_ane.tasks import TASKS as TABLE
from optimum_ane.tasks import all_rows

LENGTH = 16
OUTPUT_CLASSES = {
    "feature-extraction": BaseModelOutput,
    "fill-mask": MaskedLMOutput,
    "multiple-choice": MultipleChoiceModelOutput,
    "question-answering": QuestionAnsweringModelOutput,
    "text-classification": SequenceClassifierOutput,
    "token-classification": TokenClassifierOutput,
}
TEXTS = ["the film was very good", "a dull story", "and not fine , but the plot of the story was gripping", "great"]


@pytest.fixture
def load(tiny_package):
    """Loads the package of a tiny model, and makes the original."""

    def make(task, name="bert", **options):
        original = make_original(name, task)
        return model_class_of(task).from_pretrained(tiny_package(name, task, **options)), original

    return make


def test_there_is_a_class_for_each_task_and_each_is_public():
    assert set(TASKS) < set(TABLE)
    for task in all_rows():
        assert getattr(optimum_ane, task.model_class) is model_class_of(task.name, task.modality)


@pytest.mark.parametrize("length", [1, 5, LENGTH])
@pytest.mark.parametrize("task", TASKS)
def test_answers_are_the_originals_within_float16(load, task, length):
    model, original = load(task)
    inputs = make_inputs(original, rows=3, length=length)
    expected = answer(original, inputs)
    if task == "multiple-choice":
        inputs = {name: value[:, None] for name, value in inputs.items()}
    outputs = model(**inputs)
    assert type(outputs) is OUTPUT_CLASSES[task]
    for ours, theirs in zip(outputs.to_tuple(), expected, strict=True):
        assert ours.dtype == torch.float32
        assert ours.shape == theirs.shape
        mask = inputs["attention_mask"].bool()
        per_token = task in ("feature-extraction", "fill-mask", "question-answering", "token-classification")
        ours, theirs = (ours[mask], theirs[mask]) if per_token else (ours, theirs)
        assert psnr(theirs, ours) >= 45


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if ":" not in name])
def test_every_architecture_is_loaded(load, name):
    model, original = load("text-classification", name)
    inputs = make_inputs(original, length=9)
    assert psnr(answer(original, inputs)[0], model(**inputs).logits) >= 45


@pytest.mark.parametrize("rows", [1, 2, 3, 5])
@pytest.mark.parametrize("batch_size", [1, 2])
def test_batches_of_any_size(load, rows, batch_size):
    model, original = load("text-classification", batch_size=batch_size)
    inputs = make_inputs(original, rows=rows, length=9)
    logits = model(**inputs).logits
    assert logits.shape == (rows, 2)
    assert psnr(answer(original, inputs)[0], logits) >= 45
    alone = torch.cat(
        [model(**{name: value[i : i + 1] for name, value in inputs.items()}).logits for i in range(rows)]
    )
    assert torch.equal(logits, alone)


def test_an_empty_batch_gives_an_empty_answer(load):
    for task in ("text-classification", "token-classification"):
        model, _ = load(task)
        logits = model(torch.zeros(0, 5, dtype=torch.long)).logits
        assert logits.shape == ((0, 2) if task == "text-classification" else (0, 5, 2))


def test_any_number_of_choices(load):
    model, original = load("multiple-choice")
    inputs = {name: value.reshape(2, 3, 7) for name, value in make_inputs(original, rows=6, length=7).items()}
    with torch.no_grad():
        expected = original(**inputs).logits
    assert model(**inputs).logits.shape == (2, 3)
    assert psnr(expected, model(**inputs).logits) >= 40
    with pytest.raises(InputError, match=r"\(6, 7\); multiple choice takes \(N, choices, S\)"):
        model(inputs["input_ids"].reshape(6, 7))


class TestInputs:
    def test_missing_mask_and_token_types_stand_for_ones_and_zeros(self, load):
        model, _ = load("text-classification")
        ids = torch.arange(18).reshape(2, 9) + 5
        given = model(ids, torch.ones_like(ids), torch.zeros_like(ids)).logits
        assert torch.equal(model(ids).logits, given)
        assert torch.equal(model(input_ids=ids, return_dict=True).logits, given)

    def test_inputs_that_the_package_lacks_are_ignored(self, load):
        model, _ = load("text-classification", "distilbert")
        ids = torch.arange(9)[None] + 5
        assert "token_type_ids" not in model.sessions["model"].inputs
        assert torch.equal(model(ids, token_type_ids=torch.ones_like(ids)).logits, model(ids).logits)

    def test_what_stands_in_padding_does_not_matter(self, load):
        model, _ = load("text-classification")
        ids = torch.arange(LENGTH)[None] + 5
        mask = (torch.arange(LENGTH) < 6).long()[None]
        short = model(ids[:, :6]).logits
        torch.testing.assert_close(model(ids, mask).logits, short, rtol=0, atol=2e-3)

    def test_numpy_arrays_and_other_integers(self, load):
        model, _ = load("text-classification")
        ids = torch.arange(9)[None] + 5
        expected = model(ids).logits
        for other in (ids.int(), ids.numpy(), ids.numpy().astype(np.int16), ids.to(torch.uint8), [list(range(5, 14))]):
            logits = model(other).logits
            assert isinstance(logits, torch.Tensor)
            assert torch.equal(logits, expected)
        assert torch.equal(model(ids, torch.ones_like(ids).bool()).logits, expected)

    def test_a_long_input_is_refused_with_both_lengths(self, load):
        model, _ = load("text-classification")
        with pytest.raises(InputError, match=r"row 0 has 17 tokens, and this package takes 16; .*sequence_length 17"):
            model(torch.ones(1, 17, dtype=torch.long))

    @pytest.mark.parametrize(
        ("inputs", "message"),
        [
            ({"input_ids": torch.ones(3, dtype=torch.long)}, r"shape \(3,\); expected rows"),
            ({"input_ids": torch.ones(1, 1, 3, dtype=torch.long)}, r"shape \(1, 1, 3\)"),
            ({"input_ids": torch.ones(1, 3)}, r"float32; expected integers"),
            (
                {"input_ids": torch.ones(1, 3, dtype=torch.long), "attention_mask": torch.ones(1, 4)},
                r"attention_mask has shape \(1, 4\), input_ids \(1, 3\)",
            ),
            (
                {"input_ids": torch.ones(2, 3, dtype=torch.long), "token_type_ids": torch.ones(1, 3)},
                r"token_type_ids has shape \(1, 3\)",
            ),
        ],
    )
    def test_shapes_that_do_not_fit_are_refused_with_both(self, load, inputs, message):
        model, _ = load("text-classification")
        with pytest.raises(InputError, match=message):
            model(**inputs)

    def test_a_token_id_outside_the_vocabulary_is_refused(self, load):
        model, _ = load("text-classification")
        with pytest.raises(optimum_ane.errors.ANEError):
            model(torch.full((1, 3), 100))

    def test_padding_ids_fill_the_package_up(self, load, monkeypatch):
        """RoBERTa counts positions over the ids: zeros in the place of padding would be tokens."""
        model, original = load("text-classification", "roberta")
        seen = {}
        session = model.sessions["model"]
        predict = session.predict
        monkeypatch.setattr(session, "predict", lambda inputs, **_: seen.update(inputs) or predict(inputs))
        model(torch.full((1, 3), 7))
        assert seen["input_ids"].tolist() == [[7] * 3 + [original.config.pad_token_id] * 13]
        assert seen["attention_mask"].tolist() == [[1] * 3 + [0] * 13]


class TestPipelines:
    @pytest.fixture(autouse=True)
    def without_errors(self, caplog):
        """transformers logs an error for a model class that it does not know."""
        logger = logging.getLogger("transformers")
        logger.addHandler(caplog.handler)
        yield
        logger.removeHandler(caplog.handler)
        assert not [record for record in caplog.records if record.levelno >= logging.ERROR]

    def pipelines(self, load, tiny_package, task, name="bert"):
        model, original = load(task, name)
        tokenizer = AutoTokenizer.from_pretrained(tiny_package(name, task))
        return pipeline(task, model=model, tokenizer=tokenizer), pipeline(task, model=original, tokenizer=tokenizer)

    @pytest.mark.parametrize("name", ["bert", "distilbert", "roberta"])
    @pytest.mark.parametrize("batch_size", [1, 3])
    def test_text_classification(self, load, tiny_package, name, batch_size):
        ours, theirs = self.pipelines(load, tiny_package, "text-classification", name)
        for mine, reference in zip(ours(TEXTS, batch_size=batch_size), theirs(TEXTS), strict=True):
            assert mine["label"] == reference["label"]
            assert mine["score"] == pytest.approx(reference["score"], abs=5e-3)

    def test_text_pairs(self, load, tiny_package):
        ours, theirs = self.pipelines(load, tiny_package, "text-classification")
        pair = {"text": "the film", "text_pair": "a dull story"}
        assert ours(pair)["score"] == pytest.approx(theirs(pair)["score"], abs=5e-3)

    def test_token_classification(self, load, tiny_package):
        ours, theirs = self.pipelines(load, tiny_package, "token-classification")
        for mine, reference in zip(ours(TEXTS), theirs(TEXTS), strict=True):
            assert [entry["word"] for entry in mine] == [entry["word"] for entry in reference]
            for left, right in zip(mine, reference, strict=True):
                assert left["score"] == pytest.approx(right["score"], abs=5e-3)

    def test_question_answering(self, load, tiny_package):
        model, original = load("question-answering")
        tokenizer = AutoTokenizer.from_pretrained(tiny_package("bert", "question-answering"))
        try:
            ours, theirs = (pipeline("question-answering", model=m, tokenizer=tokenizer) for m in (model, original))
        except KeyError:
            pytest.skip("this version of transformers has no such pipeline")
        question = {"question": "the film", "context": "a dull story and a good film"}
        mine, reference = ours(**question), theirs(**question)
        assert mine["answer"] == reference["answer"]
        assert mine["score"] == pytest.approx(reference["score"], abs=1e-2)

    def test_fill_mask(self, load, tiny_package):
        ours, theirs = self.pipelines(load, tiny_package, "fill-mask")
        mine, reference = ours("the film was <mask>", top_k=30), theirs("the film was <mask>", top_k=30)
        scores = {entry["token"]: entry["score"] for entry in reference}
        assert mine[0]["token"] == reference[0]["token"]
        for entry in mine[:10]:
            assert entry["score"] == pytest.approx(scores[entry["token"]], abs=2e-3)

    def test_feature_extraction(self, load, tiny_package):
        ours, theirs = self.pipelines(load, tiny_package, "feature-extraction")
        for mine, reference in zip(ours(TEXTS), theirs(TEXTS), strict=True):
            assert psnr(torch.tensor(reference), torch.tensor(mine)) >= 50

    def test_long_texts_are_cut_by_the_saved_tokenizer(self, load, tiny_package):
        ours, _ = self.pipelines(load, tiny_package, "text-classification")
        long = "the film was good " * 20
        assert ours(long, truncation=True)[0]["label"]
        with pytest.raises(InputError, match="row 0 has 82 tokens, and this package takes 16"):
            ours(long)


class TestLoadingAndSaving:
    def test_a_saved_package_is_loaded_again(self, load, tmp_path):
        model, _ = load("text-classification")
        model.save_pretrained(tmp_path / "copy")
        again = type(model).from_pretrained(tmp_path / "copy")
        ids = torch.arange(9)[None] + 5
        assert torch.equal(again(ids).logits, model(ids).logits)
        assert not any(path.is_symlink() for path in (tmp_path / "copy").rglob("*"))
        with pytest.raises(OutputError, match="not empty"):
            model.save_pretrained(tmp_path / "copy")

    def test_a_package_in_the_hubs_cache_is_loaded_and_its_links_become_files(self, tiny_package, tmp_path):
        """`snapshots/<revision>/…` holds links to `blobs/<hash>`."""
        package = tiny_package("bert", "text-classification")
        snapshot, blobs = tmp_path / "snapshots" / "0123abc", tmp_path / "blobs"
        blobs.mkdir()
        for index, source in enumerate(path for path in package.rglob("*") if path.is_file()):
            shutil.copy(source, blobs / str(index))
            link = snapshot / source.relative_to(package)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(blobs / str(index))
        model = optimum_ane.ANEModelForSequenceClassification.from_pretrained(snapshot)
        model.save_pretrained(tmp_path / "copy")
        files = [path for path in (tmp_path / "copy").rglob("*") if path.is_file()]
        assert len(files) == len(list(blobs.iterdir()))
        assert not any(path.is_symlink() for path in files)

    def test_export_on_loading(self, tmp_path):
        original = save_checkpoint(tmp_path / "source", "distilbert", "text-classification")
        model = optimum_ane.ANEModelForSequenceClassification.from_pretrained(
            tmp_path / "source", export=True, sequence_length=LENGTH, batch_size=2
        )
        assert (model.sequence_length, model.manifest.form.batch_size) == (LENGTH, 2)
        inputs = make_inputs(original, length=9)
        assert psnr(answer(original, inputs)[0], model(**inputs).logits) >= 45
        model.save_pretrained(tmp_path / "copy")
        assert (tmp_path / "copy" / "model.mlpackage").is_dir()

    def test_the_wrong_class_is_told_the_right_one(self, tiny_package):
        package = tiny_package("bert", "text-classification")
        with pytest.raises(PackageError, match=r"is for text-classification.*ANEModelForSequenceClassification"):
            optimum_ane.ANEModelForMaskedLM.from_pretrained(package)

    def test_a_checkpoint_in_place_of_a_package(self, tmp_path):
        save_checkpoint(tmp_path, "bert", "text-classification")
        with pytest.raises(PackageError, match=r"is a checkpoint, not a package; .* or pass export=True"):
            optimum_ane.ANEModelForSequenceClassification.from_pretrained(tmp_path)

    def test_a_directory_that_there_is_not(self, tmp_path):
        with pytest.raises(PackageError, match=r"there is no directory .*nowhere, and a Hub id is like org/name"):
            optimum_ane.ANEModelForSequenceClassification.from_pretrained(tmp_path / "nowhere")

    def test_a_package_without_its_program(self, tiny_package, tmp_path):
        shutil.copytree(tiny_package("bert", "text-classification"), tmp_path / "package")
        shutil.rmtree(tmp_path / "package" / "model.mlpackage")
        with pytest.raises(PackageError, match=r"model\.mlpackage"):
            optimum_ane.ANEModelForSequenceClassification.from_pretrained(tmp_path / "package")

    def test_a_package_without_its_configuration(self, tiny_package, tmp_path):
        shutil.copytree(tiny_package("bert", "text-classification"), tmp_path / "package")
        (tmp_path / "package" / "config.json").unlink()
        with pytest.raises(PackageError, match=r"config\.json"):
            optimum_ane.ANEModelForSequenceClassification.from_pretrained(tmp_path / "package")

    def test_a_subfolder(self, tiny_package, tmp_path):
        shutil.copytree(tiny_package("bert", "text-classification"), tmp_path / "repository" / "ane")
        model = optimum_ane.ANEModelForSequenceClassification.from_pretrained(tmp_path / "repository", subfolder="ane")
        assert model.sequence_length == LENGTH

    def test_a_model_of_a_session_alone_has_nothing_to_save(self, load, tmp_path):
        model, _ = load("text-classification")
        bare = type(model)(model.sessions, model.config, model.manifest)
        with pytest.raises(PackageError, match="not loaded from a directory"):
            bare.save_pretrained(tmp_path / "copy")

    def test_what_pipelines_ask_of_a_model(self, load):
        model, original = load("text-classification")
        assert model.device == torch.device("cpu")
        assert model.to("mps") is model
        assert model.eval() is model
        assert not model.can_generate()
        assert model.runtime == "portable"
        assert type(model.config) is type(original.config)
        assert "input_ids" in inspect.signature(model.forward).parameters

    def test_every_class_is_registered_with_its_auto_class(self):
        for task in all_rows():
            model_class = model_class_of(task.name, task.modality)
            auto_class = getattr(transformers, task.auto_class)
            assert auto_class._model_mapping[model_class.config_class] is model_class


def test_sentence_embeddings_are_the_pooler_output(tiny_package):
    package = tiny_package("bert", "feature-extraction", pooling="mean", normalize=True)
    original = make_original("bert", "feature-extraction")
    inputs = make_inputs(original, length=9)
    ours = optimum_ane.ANEModelForFeatureExtraction.from_pretrained(package)(**inputs).pooler_output
    mask = inputs["attention_mask"].unsqueeze(2)
    mean = (answer(original, inputs)[0] * mask).sum(1) / mask.sum(1)
    assert psnr(torch.nn.functional.normalize(mean, dim=1), ours) >= 50


class Engine:
    """What `coremltools.models.MLModel` is on a Mac, on the portable runtime."""

    def __init__(self, path, compute_units, function_name):
        self.path, self.compute_units = path, compute_units
        self.session = PortableSession(path, function_name)

    def get_spec(self):
        return ct.utils.load_spec(self.path)

    def predict(self, inputs):
        assert all(isinstance(value, np.ndarray) for value in inputs.values())
        return self.session.predict(inputs)


class TestCoreML:
    def test_an_injected_engine_answers(self, tiny_package):
        package = tiny_package("bert", "text-classification")
        session = CoreMLSession(package / "model.mlpackage", "all", load=Engine)
        portable = PortableSession(package / "model.mlpackage")
        assert session.runtime == "coreml"
        assert session._model.compute_units is ct.ComputeUnit.ALL
        assert session.inputs == portable.inputs
        assert session.outputs == portable.outputs
        inputs = {name: np.ones(spec.shape, np.int32) for name, spec in session.inputs.items()}
        assert np.array_equal(session.predict(inputs)["logits"], portable.predict(inputs)["logits"])

    def test_inputs_are_checked_before_core_ml_sees_them(self, tiny_package):
        session = CoreMLSession(tiny_package("bert", "text-classification") / "model.mlpackage", load=Engine)
        inputs = {name: np.ones(spec.shape, np.int32) for name, spec in session.inputs.items()}
        with pytest.raises(InputError, match="input_ids"):
            session.predict(inputs | {"input_ids": np.ones((1, 3), np.int32)})
        with pytest.raises(InputError, match="input_ids"):
            session.predict({name: value for name, value in inputs.items() if name != "input_ids"})
        with pytest.raises(InputError, match="surprise"):
            session.predict(inputs | {"surprise": np.ones(1)})

    def test_a_classifiers_outputs(self, tiny_package):
        package = tiny_package("bert", "text-classification", class_labels=True)
        session = CoreMLSession(package / "model.mlpackage", load=Engine)
        assert session.outputs["classLabel"].dtype == "string"

    @pytest.mark.parametrize("error", [RuntimeError("Error compiling model"), OSError("gone")])
    def test_what_core_ml_refuses_is_a_package_error(self, tmp_path, error):
        def refuse(path, compute_units, function_name):
            raise error

        with pytest.raises(PackageError, match=f"Core ML cannot load .*: {error}"):
            CoreMLSession(tmp_path, load=refuse)

    def test_a_model_runs_on_core_ml_with_the_packages_compute_units(self, tiny_package, monkeypatch):
        loaded = []

        def load(path, compute_units, function_name):
            loaded.append(compute_units)
            return Engine(path, compute_units, function_name)

        monkeypatch.setattr(sys, "platform", "darwin")
        monkeypatch.setattr(CoreMLSession.__init__, "__defaults__", ("cpu_and_ne", load, None))
        package = tiny_package("bert", "text-classification", compute_units="cpu_only")
        model_class = optimum_ane.ANEModelForSequenceClassification
        model = model_class.from_pretrained(package)
        assert model.runtime == "coreml"
        model_class.from_pretrained(package, compute_units="cpu_and_gpu")
        model_class.from_pretrained(package, runtime="portable")
        assert loaded == [ct.ComputeUnit.CPU_ONLY, ct.ComputeUnit.CPU_AND_GPU]
        ids = torch.arange(9)[None] + 5
        portable = model_class.from_pretrained(package, runtime="portable")
        assert torch.equal(model(ids).logits, portable(ids).logits)


class TestOpeningASession:
    def test_core_ml_off_macos_is_refused_with_the_other_runtime(self, tiny_package, monkeypatch):
        monkeypatch.setattr(sys, "platform", "linux")
        with pytest.raises(RuntimeUnavailableError, match="needs macOS; use runtime portable"):
            open_session(tiny_package("bert", "text-classification") / "model.mlpackage", "coreml")

    def test_an_unknown_runtime_is_refused_with_the_known_ones(self, tmp_path):
        with pytest.raises(RuntimeUnavailableError, match="'onnx' is not one of auto, coreml, portable"):
            open_session(tmp_path, "onnx")

    @pytest.mark.skipif(sys.platform == "darwin", reason="auto is Core ML there")
    def test_auto_is_portable_off_macos(self, tiny_package):
        session = open_session(tiny_package("bert", "text-classification") / "model.mlpackage")
        assert session.runtime == "portable"

    def test_unknown_compute_units_are_refused_by_name(self, tiny_package):
        with pytest.raises(optimum_ane.errors.ANEError, match="tpu"):
            CoreMLSession(tiny_package("bert", "text-classification") / "model.mlpackage", "tpu", load=Engine)
