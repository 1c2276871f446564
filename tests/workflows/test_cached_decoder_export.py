"""Language models with a cache: exported, loaded, and asked to write, beside transformers."""

import io
import json

import pytest
import torch
from tiny_models import make_tokenizer, psnr
from transformers import AutoConfig, AutoModelForCausalLM, TextStreamer, pipeline

from optimum_ane import ANEModelForCausalLM, export
from optimum_ane.compression.recipes import get_recipe
from optimum_ane.errors import InputError, ShapeError, UnsupportedModelError, ValidationError
from optimum_ane.modeling.decoder_cache import ANECache
from optimum_ane.package.form import ExportForm
from optimum_ane.package.manifest import Manifest
from optimum_ane.workflows.compress import Original, compress_package
from optimum_ane.workflows.generate import Sampling, generate

CONTEXT, PREFILL = 40, 8
SIZES = {
    "vocab_size": 100,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "pad_token_id": 1,
    "bos_token_id": 2,
    "eos_token_id": 3,
}


def make_decoder(model_type, **settings):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **SIZES | settings)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:  # wide enough that every choice of a token is clear in float16 too
                parameter.copy_(torch.randn(parameter.shape) * 1.2 * parameter[0].numel() ** -0.5)
    model.generation_config.do_sample = False
    return model.requires_grad_(False)


@pytest.fixture(scope="module")
def original():
    return make_decoder("llama", tie_word_embeddings=True)


@pytest.fixture(scope="module")
def package(original, tmp_path_factory):
    original.generation_config.top_k = 7
    output = tmp_path_factory.mktemp("llama") / "out"
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    forms = {"context_length": CONTEXT, "prefill_length": PREFILL}
    return export(original, output, task="text-generation", tokenizer=tokenizer, quiet=True, **forms)


@pytest.fixture(scope="module")
def model(package):
    return ANEModelForCausalLM.from_pretrained(package.path)


def tokens(*shape, seed=0):
    return torch.randint(4, 100, shape, generator=torch.Generator().manual_seed(seed))


def test_the_package_says_what_it_is(package):
    manifest = Manifest.read(package.path)
    (program,) = manifest.programs
    assert [function.name for function in program.functions] == ["infer", "prefill", "score"]
    shapes = {f.name: [(t.name, t.shape) for t in f.inputs] for f in program.functions}
    assert shapes["prefill"] == [
        ("input_ids", (1, 8)),
        ("position", (1,)),
        ("causal_mask", (1, 1, 8, CONTEXT)),
    ]
    assert {(t.name, t.shape, t.dtype) for f in program.functions for t in f.states} == {
        ("kv_cache", (4, 1, CONTEXT, 16), "float16")
    }
    assert [[t.name for t in f.outputs] for f in program.functions] == [["logits"], ["next_position"], ["logits"]]
    form = manifest.form
    assert (form.kv_cache, form.context_length, form.prefill_length, form.target) == ("state", 40, 8, "iOS18")
    assert json.loads((package.path / "generation_config.json").read_text())["top_k"] == 7
    assert {"generation_config.json", "tokenizer.json"} <= manifest.files.keys()
    report = json.loads((package.path / "export_report.json").read_text())
    assert report["module_psnr"].keys() == report["logits"].keys() == {"score", "infer"}
    assert report["logits"]["score"]["mean_divergence"] < 1e-3


@pytest.mark.parametrize("length", [1, 7, 8, 9, 23, CONTEXT])
def test_logits_of_every_position(model, original, length):
    ids = tokens(2, length, seed=length)
    assert psnr(original(ids).logits, model(ids).logits) > 55
    last = model(ids, logits_to_keep=1).logits
    assert last.shape == (2, 1, 100)
    assert psnr(original(ids).logits[:, -1:], last) > 55


def test_padding_on_either_side(model, original):
    ids, mask = tokens(2, 11), torch.ones(2, 11, dtype=torch.long)
    mask[0, :4], mask[1, 9:] = 0, 0
    logits = model(ids, mask).logits
    assert psnr(original(ids[:1, 4:]).logits, logits[:1, 4:]) > 55
    assert psnr(original(ids[1:, :9]).logits, logits[1:, :9]) > 55
    assert not logits[0, :4].any()
    assert not logits[1, 9:].any()


def test_candidates_of_several_tokens_at_once(model, original):
    ids = tokens(1, 4, seed=3).repeat(1, 4)
    arguments = {"max_new_tokens": 12, "eos_token_id": None, "prompt_lookup_num_tokens": 3}
    assert model.generate(ids, **arguments).tolist() == original.generate(ids, **arguments).tolist()


@pytest.mark.parametrize("settings", [{}, {"num_beams": 3}, {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2}])
def test_it_writes_what_the_original_writes(model, original, settings):
    ids = tokens(2, 10, seed=3)
    mask = torch.ones_like(ids)
    mask[1, :6] = 0
    arguments = {"attention_mask": mask, "max_new_tokens": 12, "eos_token_id": None, "do_sample": False} | settings
    assert model.generate(ids, **arguments).tolist() == original.generate(ids, **arguments).tolist()


def test_sampling_draws_the_same_tokens(model, original):
    written = []
    for each in (model, original):
        torch.manual_seed(5)
        written.append(each.generate(tokens(1, 5), max_new_tokens=12, do_sample=True, top_k=5).tolist())
    assert written[0] == written[1]


def test_a_second_turn_reads_only_what_is_new(model, original, monkeypatch):
    ids, cache = tokens(1, 12), ANECache()
    first = model.generate(ids, past_key_values=cache, max_new_tokens=6, eos_token_id=None)
    assert cache.get_seq_length() == 17  # the last token is written and not read
    read = []
    score, step = model._programs.read, model._programs.step
    monkeypatch.setattr(model._programs, "read", lambda cache, new: read.append(len(new)) or score(cache, new))
    monkeypatch.setattr(model._programs, "step", lambda cache, new: read.append(1) or step(cache, new))
    # The end of the first answer is replaced: what is read begins there.
    second = torch.cat([first[:, :15], tokens(1, 4, seed=9)], 1)
    arguments = {"max_new_tokens": 5, "eos_token_id": None}
    again = model.generate(second, past_key_values=cache, **arguments)
    assert again.tolist() == original.generate(second, **arguments).tolist()
    assert read == [3, 1, 1, 1, 1, 1]


def test_steps_with_a_cache(model, original):
    ids = tokens(2, 14)
    answer = model(ids[:, :9], use_cache=True)
    kept = answer.past_key_values.copy()
    logits = [model(ids[:, step : step + 1], past_key_values=answer.past_key_values).logits for step in range(9, 14)]
    expected = original(ids).logits[:, 9:]
    assert psnr(expected, torch.cat(logits, 1)) > 55
    assert (answer.past_key_values.get_seq_length(), kept.get_seq_length()) == (14, 9)
    assert psnr(expected, model(ids[:, 9:], past_key_values=kept).logits) > 55
    with pytest.raises(InputError, match="is of 2 rows, and input_ids has 1"):
        model(ids[:1, :1], past_key_values=kept)


def test_the_end_of_the_context(model):
    with pytest.warns(UserWarning, match="end of the context, 40 tokens"):
        written = model.generate(tokens(1, 30), max_new_tokens=30, eos_token_id=None)
    assert written.shape == (1, CONTEXT)
    with pytest.raises(InputError, match=r"prompt of 41 tokens does not fit .* holds 40"):
        model.generate(tokens(1, 41), max_new_tokens=1)
    with pytest.raises(InputError, match=r"41 tokens do not fit .* holds 40"):
        model(tokens(1, 41))
    cache = model(tokens(1, 40), use_cache=True).past_key_values
    with pytest.raises(InputError, match="41 tokens do not fit"):
        model(tokens(1, 1), past_key_values=cache)


def test_what_does_not_fit_is_refused(model):
    ids = tokens(1, 6)
    with pytest.raises(InputError, match="padding between tokens"):
        model(ids, torch.tensor([[1, 1, 0, 1, 1, 1]]))
    with pytest.raises(InputError, match="padding behind its tokens, where tokens are to follow"):
        model(ids, torch.tensor([[1, 1, 1, 1, 1, 0]]), use_cache=True)
    with pytest.raises(InputError, match="holds 100 in row 0, column 2"):
        model(torch.tensor([[5, 5, 100]]))
    with pytest.raises(InputError, match="attention_mask has shape"):
        model(ids, torch.ones(1, 4))
    with pytest.raises(UnsupportedModelError, match="gives no hidden states"):
        model(ids, output_hidden_states=True)
    with pytest.raises(InputError, match="cache_implementation"):
        model.generate(ids, cache_implementation="static", max_new_tokens=1)


def test_in_a_pipeline_and_with_a_streamer(model, original, package):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(package.path)
    arguments = {"max_new_tokens": 6, "eos_token_id": None, "pad_token_id": 1}
    answers = [
        pipeline("text-generation", model=each, tokenizer=tokenizer)("the film was fine", **arguments)
        for each in (model, original)
    ]
    assert answers[0] == answers[1]
    assert len(answers[0][0]["generated_text"]) > len("the film was fine")
    heard = []
    streamer = TextStreamer(tokenizer, skip_prompt=True)
    streamer.on_finalized_text = lambda text, stream_end=False: heard.append(text)
    written = model.generate(tokens(1, 5), streamer=streamer, max_new_tokens=5, eos_token_id=None)
    assert "".join(heard).split() == tokenizer.decode(written[0, 5:]).split()


def test_a_conversation_reads_each_message_once(package):
    stream, notes = io.StringIO(), io.StringIO()
    sampling = Sampling(max_new_tokens=4, greedy=True)
    lines = ["the film was fine", "the story was not"]
    first, second = generate(package.path, lines=lines, sampling=sampling, stream=stream, notes=notes)
    assert stream.getvalue() == f"{first.text}\n{second.text}\n"
    assert first.read_tokens == first.prompt_tokens
    assert second.read_tokens < second.prompt_tokens
    assert "from the cache" in notes.getvalue()
    assert "portable runtime on this machine's CPU" in notes.getvalue()
    (alone,) = generate(package.path, chat=lines[0], sampling=sampling, stream=io.StringIO(), notes=notes)
    assert alone.text == first.text
    with pytest.raises(InputError, match="temperature is of tokens that are drawn"):
        Sampling(greedy=True, temperature=1.0)


def test_a_model_that_makes_its_own_mask_is_refused(tmp_path):
    sizes = {"num_layers": 2, "num_heads": 3, "hidden_size": 48, "vocab_size": 100, "max_position_embeddings": 64}
    config = AutoConfig.for_model("gpt_neo", attention_types=[[["global", "local"], 1]], window_size=4, **sizes)
    torch.manual_seed(0)
    with pytest.raises(ValidationError, match=r"PSNR of the logits is .* 120 are asked for.*kv_cache none"):
        export(
            AutoModelForCausalLM.from_config(config).eval(), tmp_path / "out", task="text-generation",
            tokenizer=make_tokenizer(), quiet=True, context_length=32, prefill_length=8,
        )  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_forms_that_cannot_be():
    with pytest.raises(UnsupportedModelError, match=r"context_length is for the tasks .*, not for fill"):
        ExportForm(task="fill-mask", context_length=5)
    with pytest.raises(UnsupportedModelError, match="context_length is of a cache"):
        ExportForm(kv_cache="none", context_length=5)
    with pytest.raises(UnsupportedModelError, match="needs iOS18"):
        ExportForm(kv_cache="state", minimum_deployment_target="iOS17")
    with pytest.raises(UnsupportedModelError, match="sequence_length is of packages without a cache"):
        ExportForm(task="text-generation", kv_cache="state", sequence_length=64)
    with pytest.raises(ShapeError, match="takes one row"):
        ExportForm(kv_cache="state", batch_size=2)


def test_a_package_of_several_programs(original, tmp_path):
    forms = {"context_length": CONTEXT, "prefill_length": PREFILL, "chunks": 2}
    result = export(
        original, tmp_path / "out", task="text-generation", tokenizer=make_tokenizer(), quiet=True, **forms
    )
    manifest = Manifest.read(result.path)
    assert {p.name: [f.name for f in p.functions] for p in manifest.programs} == {
        "chunk_01_of_02": ["infer", "prefill"],
        "chunk_02_of_02": ["infer", "prefill", "score"],
    }
    assert {t.shape for p in manifest.programs for f in p.functions for t in f.states} == {(2, 1, CONTEXT, 16)}
    model = ANEModelForCausalLM.from_pretrained(result.path)
    ids = tokens(1, 19)
    assert psnr(original(ids).logits, model(ids).logits) > 55
    arguments = {"max_new_tokens": 8, "eos_token_id": None}
    assert model.generate(ids, **arguments).tolist() == original.generate(ids, **arguments).tolist()
    card = (result.path / "README.md").read_text()
    assert 'for name in ["chunk_01_of_02.mlpackage", "chunk_02_of_02.mlpackage"]' in card
    with pytest.raises(UnsupportedModelError, match="3 chunks of 2 layers"):
        export(original, tmp_path / "other", task="text-generation", quiet=True, **forms | {"chunks": 3})


@pytest.mark.parametrize("target", ["iOS17", "iOS18"])
def test_a_cache_in_inputs_and_outputs(original, tmp_path, target):
    forms = {"context_length": CONTEXT, "prefill_length": PREFILL, "kv_cache": "io"}
    result = export(
        original, tmp_path / "out", task="text-generation", tokenizer=make_tokenizer(), quiet=True,
        minimum_deployment_target=target, **forms,
    )  # fmt: skip
    (program,) = Manifest.read(result.path).programs
    names = ["infer", "prefill", "score"] if target == "iOS18" else ["main"]
    assert [function.name for function in program.functions] == names
    assert not any(function.states for function in program.functions)
    assert [t.name for t in program.functions[0].outputs] == ["logits", "new_rows"]
    model = ANEModelForCausalLM.from_pretrained(result.path)
    ids = tokens(2, 19)
    assert psnr(original(ids).logits, model(ids).logits) > 55
    card = (result.path / "README.md").read_text()
    assert f"MLShapedArray<Float16>(repeating: 0, shape: [4, 1, {CONTEXT}, 16])" in card
    assert ('functionName = "infer"' in card) is (target == "iOS18")
    arguments = {"max_new_tokens": CONTEXT - 19, "eos_token_id": None, "num_beams": 2}
    assert model.generate(ids, **arguments).tolist() == original.generate(ids, **arguments).tolist()


def test_compressed_when_exported_and_afterwards(original, package, tmp_path):
    arguments = {"task": "text-generation", "tokenizer": make_tokenizer(), "quiet": True}
    forms = {"context_length": CONTEXT, "prefill_length": PREFILL}
    result = export(original, tmp_path / "one", compress="int8", **arguments, **forms)
    assert result.report.psnr_threshold < 50
    make_decoder("llama", tie_word_embeddings=True).save_pretrained(tmp_path / "original")
    again = compress_package(
        package.path, get_recipe("int8"), tmp_path / "two", original=Original(str(tmp_path / "original")), quiet=True
    )
    ids = tokens(1, 15)
    logits = [ANEModelForCausalLM.from_pretrained(each.path)(ids).logits for each in (result, again)]
    assert torch.equal(*logits)
    assert 30 < psnr(original(ids).logits, logits[0]) < 55
    assert result.report.sizes["weights"] < 0.6 * package.report.sizes["weights"]


def test_the_card_is_of_a_language_model(package):
    card = (package.path / "README.md").read_text()
    assert "on a context of 40 tokens, in float16" in card
    assert 'write = pipeline("text-generation", model=model, tokenizer=tokenizer)' in card
    swift = card[card.index("```swift") : card.index("## How it was made")]
    assert "private let context = 40, block = 8" in swift
    assert "private let ends: Set<Int> = [3]" in swift
    assert 'for name in ["model.mlpackage"]' in swift
    assert "model.answer([" in swift
    assert all(swift.count(one) == swift.count(other) for one, other in ("{}", "()", "[]"))
    python = card[card.index("```python") + 9 : card.index("```", card.index("```python") + 9)]
    compile(python, "card", "exec")
