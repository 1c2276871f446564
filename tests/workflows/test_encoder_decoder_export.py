"""Encoder-decoder models: exported, loaded, and asked to write, beside transformers."""

import copy
import io
import json

import pytest
import torch
from encoder_decoders import make_encoder_decoder, source_rows
from tiny_models import make_tokenizer, psnr
from transformers import MarianConfig
from transformers.modeling_outputs import BaseModelOutput

from optimum_ane import ANEModelForSeq2SeqLM, export
from optimum_ane.errors import InputError, PackageError, ShapeError, UnsupportedModelError, ValidationError
from optimum_ane.exporters.cached_decoder.crossed import CrossedDecoder, SourceReader, TokenCache
from optimum_ane.exporters.cached_decoder.crossed_attention import MaskedAttentions
from optimum_ane.exporters.cached_decoder.inputs import causal_mask
from optimum_ane.exporters.encoder_decoder import decoder_vocabulary
from optimum_ane.modeling.encoder_decoder_programs import EncoderDecoderPrograms
from optimum_ane.package.form import ExportForm
from optimum_ane.package.manifest import Manifest
from optimum_ane.runtimes import TensorSpec
from optimum_ane.targets.coreml.conversion import GRAPH_CONVERSIONS
from optimum_ane.workflows import graph
from optimum_ane.workflows.generate import Sampling, generate

SOURCE, CONTEXT = 13, 20
FORM = {"task": "auto", "sequence_length": SOURCE, "context_length": CONTEXT, "quiet": True}


@pytest.fixture(scope="module")
def original():
    return make_encoder_decoder("bart")


@pytest.fixture(scope="module")
def package(original, tmp_path_factory):
    original.generation_config.max_new_tokens = 11
    output = tmp_path_factory.mktemp("bart") / "out"
    return export(original, output, tokenizer=make_tokenizer(), **FORM)


@pytest.fixture(scope="module")
def model(package):
    return ANEModelForSeq2SeqLM.from_pretrained(package.path)


def test_the_package_says_what_it_is(package):
    manifest = Manifest.read(package.path)
    encoder, decoder = manifest.programs
    described = {
        f"{program.name}.{f.name}": {t.name: (t.shape, t.dtype) for t in (*f.inputs, *f.states)}
        for program in manifest.programs
        for f in program.functions
    }
    states = {"kv_cache": ((4, 3, CONTEXT, 16), "float16"), "cross_cache": ((4, 3, 32, 16), "float16")}
    assert described == {
        "encoder.main": {"input_ids": ((1, SOURCE), "int32"), "attention_mask": ((1, SOURCE), "int32")},
        "decoder.infer": {
            "input_ids": ((1, 1), "int32"),
            "position": ((1,), "int32"),
            "causal_mask": ((1, 1, 1, CONTEXT), "float16"),
            "encoder_mask": ((1, 1, 1, 32), "float16"),
            **states,
        },
        "decoder.begin": {"encoder_hidden_states": ((1, SOURCE, 48), "float16"), **states},
    }
    assert [t.name for f in (*encoder.functions, *decoder.functions) for t in f.outputs] == [
        "encoder_hidden_states",
        "logits",
        "begun",
    ]
    assert all(t.meaning for f in manifest.functions for t in (*f.inputs, *f.outputs, *f.states))
    form = manifest.form
    assert (form.task, form.kv_cache, form.target, form.longest) == ("text2text-generation", "state", "iOS18", SOURCE)
    assert manifest.text.end_ids == (2,)
    assert json.loads((package.path / "generation_config.json").read_text())["max_new_tokens"] == 11
    assert json.loads((package.path / "tokenizer_config.json").read_text())["model_max_length"] == SOURCE
    report = json.loads((package.path / "export_report.json").read_text())
    assert report["module_psnr"].keys() == report["package_psnr"].keys() == {"encoder_hidden_states", "logits"}
    assert min(package.report.module_psnr.values()) > 120
    assert min(package.report.package_psnr.values()) > 60


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_beams": 3},
        {"num_beams": 4, "num_return_sequences": 2, "length_penalty": 0.5},
        {"forced_bos_token_id": 17},
        {"use_cache": False},
        {"repetition_penalty": 1.1},
    ],
)
def test_it_writes_what_the_original_writes(model, original, settings):
    ids, mask = source_rows(original)
    arguments = {"attention_mask": mask, "max_new_tokens": 12} | settings
    assert model.generate(ids, **arguments).tolist() == original.generate(ids, **arguments).tolist()


def test_sampling_draws_the_same_tokens(model, original):
    ids, mask = source_rows(original, (5, 11))
    written = []
    for each in (model, original):
        torch.manual_seed(5)
        written.append(each.generate(ids, attention_mask=mask, max_new_tokens=12, do_sample=True, top_k=3).tolist())
    assert written[0] == written[1]


def test_logits_of_texts_of_several_lengths(model, original):
    ids, mask = source_rows(original, (1, 13, 6))
    begun = torch.randint(3, 98, (3, 9), generator=torch.Generator().manual_seed(1))
    answer = model(ids, mask, begun)
    for row, count in enumerate((1, 13, 6)):
        alone = original(ids[row : row + 1, :count], decoder_input_ids=begun[row : row + 1])
        assert psnr(alone.logits, answer.logits[row : row + 1]) > 58
        encoded = answer.encoder_last_hidden_state[row : row + 1, :count]
        assert psnr(alone.encoder_last_hidden_state, encoded) > 58
    # What follows goes on from there, whatever the source is said to be.
    more = torch.randint(3, 98, (3, 3), generator=torch.Generator().manual_seed(2))
    went_on = model(decoder_input_ids=more, past_key_values=answer.past_key_values).logits
    whole = original(ids, attention_mask=mask, decoder_input_ids=torch.cat((begun, more), 1)).logits
    assert psnr(whole[:, 9:], went_on) > 58


def test_encoded_sources_are_taken_from_elsewhere(model, original):
    ids, mask = source_rows(original)
    encoded = original.get_encoder()(input_ids=ids, attention_mask=mask)
    given = BaseModelOutput(last_hidden_state=encoded.last_hidden_state)
    written = model.generate(encoder_outputs=given, attention_mask=mask, max_new_tokens=8)
    assert written.tolist() == original.generate(ids, attention_mask=mask, max_new_tokens=8).tolist()


def test_a_text_stops_at_the_end_of_the_context(model, original):
    ids, mask = source_rows(original)
    arguments = {"attention_mask": mask, "max_new_tokens": 40, "eos_token_id": 98, "forced_eos_token_id": None}
    with pytest.warns(UserWarning, match="--context-length"):
        written = model.generate(ids, **arguments)
    assert written.shape == (3, CONTEXT + 1)  # the last token is written and not read
    assert written.tolist() == original.generate(ids, **arguments)[:, : CONTEXT + 1].tolist()


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"input_ids": torch.full((1, SOURCE + 1), 5)}, "row 0 has 14 tokens"),
        ({"input_ids": torch.full((1, 3), 100)}, "holds 100"),
        ({"input_ids": torch.full((1, 3), 5), "attention_mask": torch.tensor([[0, 1, 1]])}, "padding before tokens"),
        ({"input_ids": torch.full((1, 3), 5), "attention_mask": torch.ones(1, 4)}, "attention_mask has shape"),
        ({"input_ids": torch.ones(1, 3)}, "expected rows of token ids"),
    ],
)
def test_sources_that_cannot_be_meant_are_refused(model, inputs, message):
    with pytest.raises(InputError, match=message):
        model.generate(**inputs)


def test_more_padding_than_the_package_is_long_does_no_harm(model, original):
    ids, mask = source_rows(original, (5, 4))
    wide = [torch.nn.functional.pad(each, (0, 30)) for each in (ids, mask)]
    written = model.generate(wide[0], attention_mask=wide[1], max_new_tokens=6)
    assert written.tolist() == original.generate(ids, attention_mask=mask, max_new_tokens=6).tolist()


def test_rows_of_a_cache_and_of_tokens_are_as_many(model):
    cache = model(torch.full((2, 3), 5), decoder_input_ids=torch.full((2, 1), 2)).past_key_values
    with pytest.raises(InputError, match="of 2 rows"):
        model(decoder_input_ids=torch.full((1, 1), 2), past_key_values=cache)
    with pytest.raises(InputError, match="generate"):
        model(torch.full((2, 3), 5))


def test_one_program_is_not_enough(model):
    with pytest.raises(PackageError, match="no program 'decoder'"):
        EncoderDecoderPrograms({"encoder": model.sessions["encoder"]})
    with pytest.raises(PackageError, match="no function 'infer'"):
        EncoderDecoderPrograms(dict.fromkeys(("encoder", "decoder"), _Other(model.sessions["decoder"])))


@pytest.mark.parametrize(
    ("where", "changed", "message"),
    [
        ("outputs", {"logits": None}, "needs logits"),
        ("inputs", {"input_ids": (1, 2)}, "reads one token"),
        ("inputs", {"causal_mask": (1, 1, 1, 7)}, "its mask is of 7 rows"),
        ("inputs", {"encoder_mask": (1, 32)}, "masks of function infer"),
        ("inputs", {"surprise": (1,)}, "takes .*surprise"),
    ],
)
def test_a_decoder_that_is_none_is_refused(model, where, changed, message):
    decoder = copy.copy(model.sessions["decoder"])
    specs = dict(getattr(decoder, where))
    for name, shape in changed.items():
        specs[name] = TensorSpec(name, shape or (), "float16")
        if shape is None:
            del specs[name]
    setattr(decoder, where, specs)
    with pytest.raises(PackageError, match=message):
        EncoderDecoderPrograms({"encoder": model.sessions["encoder"], "decoder": decoder})


class _Other:
    """A session whose functions have other names."""

    functions, function_name = ("go", "stop"), "go"

    def __init__(self, session):
        self.inputs = session.inputs


@pytest.mark.parametrize("name", ["t5", "t5:gated", "umt5", "marian", "m2m_100"])
def test_modules_over_one_state_answer_as_the_original(name):
    """Two sources through one state, the shorter one last, with rubbish where it has no columns."""
    original = make_encoder_decoder(name)
    decoder = CrossedDecoder(original, CONTEXT, 32)
    reader = SourceReader(decoder)
    reader.kv_cache, reader.cross_cache = decoder.kv_cache, decoder.cross_cache
    generator = torch.Generator().manual_seed(1)
    for count in (11, 3):
        ids, begun = (torch.randint(3, 98, (1, length), generator=generator) for length in (count, 12))
        expected = original(input_ids=ids, decoder_input_ids=begun).logits[0]
        hidden = torch.full((1, 11, 48), 7.0)
        hidden[:, :count] = original.get_encoder()(input_ids=ids).last_hidden_state
        assert reader(hidden).tolist() == [11]
        closed = torch.where(torch.arange(32) < count, 0.0, -3e4)[None, None, None]
        logits = [
            decoder(begun[:, [t]], torch.tensor([t]), torch.from_numpy(causal_mask(t, 1, CONTEXT, "float32")), closed)
            for t in range(12)
        ]
        assert psnr(expected, torch.cat(logits)[:, 0]) > 120


def test_every_layer_must_attend_to_both():
    attentions = MaskedAttentions(type("Source", (), {"holds": lambda self, key: False})(), torch.zeros(1))
    attentions.over_own = attentions.over_source = 2
    attentions.check("a model", 2)
    attentions.over_source = 1
    with pytest.raises(UnsupportedModelError, match="2 attentions to its own tokens and 1 to the source"):
        attentions.check("a model", 2)


@pytest.mark.parametrize("most", [1 << 25, 1], ids=["keys and values", "states"])
def test_caches_are_passed_in_before_ios_18(tmp_path, monkeypatch, most):
    monkeypatch.setattr("optimum_ane.exporters.encoder_decoder.MOST_PASSED_BYTES", most)
    original = make_encoder_decoder("t5", num_layers=1, num_decoder_layers=1)
    form = FORM | {"kv_cache": "io", "minimum_deployment_target": "iOS16"}
    result = export(original, tmp_path / "out", **form)
    taken = {t.name for f in Manifest.read(result.path).programs[1].functions for t in f.inputs}
    assert taken >= {"kv_cache", "cross_cache" if most > 1 else "encoder_hidden_states"}
    model = ANEModelForSeq2SeqLM.from_pretrained(result.path)
    assert min(result.report.package_psnr.values()) > 55
    ids, mask = source_rows(original)
    arguments = {"attention_mask": mask, "max_new_tokens": 8, "num_beams": 2}
    assert model.generate(ids, **arguments).tolist() == original.generate(ids, **arguments).tolist()
    if most > 1:
        given = BaseModelOutput(last_hidden_state=torch.zeros(1, SOURCE, 48))
        with pytest.raises(InputError, match="keys and values of its own"):
            model(encoder_outputs=given, decoder_input_ids=torch.zeros(1, 1, dtype=torch.long))


@pytest.mark.parametrize(
    ("form", "kind", "message"),
    [
        ({"context_length": 65}, ShapeError, "choose context_length 64"),
        ({"sequence_length": 65}, ShapeError, "64 positions"),
        ({"kv_cache": "none", "context_length": None}, UnsupportedModelError, "kv_cache io"),
    ],
)
def test_forms_that_cannot_be_are_refused(original, tmp_path, form, kind, message):
    with pytest.raises(kind, match=message):
        export(original, tmp_path / "out", **FORM | form)
    assert not (tmp_path / "out").exists()


def test_options_of_prompts_are_not_of_sources():
    with pytest.raises(UnsupportedModelError, match="prefill_length is for the task text-generation"):
        ExportForm(task="text2text-generation", prefill_length=8)
    with pytest.raises(UnsupportedModelError, match="one"):
        ExportForm(task="text2text-generation", sequence_length=(8, 16))
    assert ExportForm(task="text2text-generation", kv_cache="state", sequence_length=7).sequence_length == (7,)


def test_a_cache_that_goes_wrong_is_seen(original, tmp_path, monkeypatch):
    """What the gates are for: an open mask over the source, in the modules already."""
    monkeypatch.setattr("optimum_ane.modeling.encoder_decoder_programs.HIDDEN", 0.0)
    with pytest.raises(ValidationError, match="does not answer as without"):
        export(original, tmp_path / "out", **FORM)


def test_a_position_that_a_trace_has_frozen_is_seen(tmp_path, monkeypatch):
    """In PyTorch all is well then: the program alone shows it, after a few steps."""
    monkeypatch.setattr(graph, "GRAPH_CONVERSIONS", GRAPH_CONVERSIONS[:1])
    monkeypatch.setattr(TokenCache, "get_seq_length", lambda self, layer=0: int(self._position))
    with pytest.raises(ValidationError, match="PSNR of logits is"):
        export(make_encoder_decoder("bart", encoder_layers=1, decoder_layers=1), tmp_path / "out", **FORM)


def test_a_large_table_is_in_the_file_once(tmp_path):
    original = make_encoder_decoder("bart", vocab_size=20_001, encoder_layers=1, decoder_layers=1)
    export(original, tmp_path / "out", validate=False, **FORM)
    file = tmp_path / "out/decoder.mlpackage/Data/com.apple.CoreML/weights/weight.bin"
    table = 2 * original.get_input_embeddings().weight.numel()
    assert 1 < file.stat().st_size / table < 1.1
    # Words of both pieces, their first and last.
    begun, ids = torch.tensor([[2, 10_000, 10_001, 20_000]]), torch.tensor([[0, 10_001, 20_000, 2]])
    logits = ANEModelForSeq2SeqLM.from_pretrained(tmp_path / "out")(ids, decoder_input_ids=begun).logits
    assert psnr(original(ids, decoder_input_ids=begun).logits, logits) > 58


@pytest.mark.parametrize("num_beams", [None, 3])
def test_the_command_writes_a_text_of_a_text(package, model, original, num_beams):
    stream, notes = io.StringIO(), io.StringIO()
    sampling = Sampling(max_new_tokens=6, num_beams=num_beams)
    (told,) = generate(package.path, text="the film was fine", sampling=sampling, stream=stream, notes=notes)
    tokenizer = make_tokenizer()
    ids = tokenizer("the film was fine", return_tensors="pt")["input_ids"]
    written = original.generate(ids, max_new_tokens=6, num_beams=num_beams or 1)
    expected = tokenizer.decode(written[0], skip_special_tokens=True)
    assert stream.getvalue() == f"{expected}\n"
    assert (told.text, told.prompt_tokens) == (expected, ids.shape[1])
    assert "portable runtime" in notes.getvalue()


def test_the_command_forces_a_language(package, original):
    sampling = Sampling(max_new_tokens=6, target_language="<mask>")
    (told,) = generate(package.path, text="a plot", sampling=sampling, stream=io.StringIO(), notes=io.StringIO())
    tokenizer = make_tokenizer()
    ids = tokenizer("a plot", return_tensors="pt")["input_ids"]
    written = original.generate(ids, max_new_tokens=6, forced_bos_token_id=tokenizer.mask_token_id)
    assert told.text == tokenizer.decode(written[0], skip_special_tokens=True)
    # A word of the vocabulary is no language, however it is spelled.
    for given in ({"target_language": "film"}, {"target_language": "xx_YY"}, {"source_language": "film"}):
        with pytest.raises(InputError, match=r"is no language of|knows no languages"):
            generate(package.path, text="a plot", sampling=Sampling(**given))


def test_the_command_refuses_what_is_of_conversations(package):
    with pytest.raises(InputError, match="text is none"):
        generate(package.path, text="a film", system="be brief")
    with pytest.raises(InputError, match="num_beams is 0"):
        Sampling(num_beams=0)
    with pytest.raises(PackageError, match="ANEModelForSeq2SeqLM"):
        generate(package.path, prompt="a film")


def test_a_decoder_may_have_words_of_its_own():
    config = MarianConfig(vocab_size=60, decoder_vocab_size=100, share_encoder_decoder_embeddings=False)
    assert decoder_vocabulary(config) == 100
    assert decoder_vocabulary(MarianConfig(vocab_size=60)) == 60
