"""What sentence-transformers checkpoints say beside their transformer: read, computed, or refused by name."""

import json

import pytest
import torch
from safetensors.torch import save_file
from tiny_models import make_inputs, make_original, make_tokenizer, psnr, save_checkpoint

from optimum_ane.checkpoints.checkpoint import open_checkpoint
from optimum_ane.checkpoints.hub_options import HubOptions
from optimum_ane.checkpoints.sentence_transformers import SentenceTransformers
from optimum_ane.errors import CheckpointError, ShapeError, UnsupportedModelError
from optimum_ane.nn.layout import to_bc1s

OLD, NEW = "sentence_transformers.models", "sentence_transformers.sentence_transformer.modules.pooling"
TANH = "torch.nn.modules.activation.Tanh"


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def list_modules(directory, *kinds):
    """`modules.json` with a transformer at the root and the modules after it in folders of their own."""
    entries = [{"idx": 0, "name": "0", "path": "", "type": f"{OLD}.Transformer"}]
    for index, kind in enumerate(kinds, 1):
        dotted = kind if "." in kind else f"{OLD}.{kind}"
        path = f"{index}_{kind.rsplit('.', 1)[-1]}"
        entries.append({"idx": index, "name": str(index), "path": path, "type": dotted})
        if kind.endswith("Pooling"):
            write(directory / path / "config.json", {"word_embedding_dimension": 48, "pooling_mode_mean_tokens": True})
    write(directory / "modules.json", entries)


def write_dense(folder, out_features=24, in_features=48, activation=TANH, seed=0, bias=True, **entries):
    config = {"in_features": in_features, "out_features": out_features, "bias": bias}
    write(folder / "config.json", config | {"activation_function": activation} | entries)
    torch.manual_seed(seed)
    weights = {"linear.weight": 0.2 * torch.randn(out_features, in_features)}
    weights |= {"linear.bias": torch.randn(out_features)} if bias else {}
    save_file(weights, folder / "model.safetensors")


@pytest.fixture
def checkpoint(tmp_path):
    """As MiniLM's on the Hub: mean pooling, normalised, 20 tokens."""
    directory = tmp_path / "embedder"
    save_checkpoint(directory, "bert", "feature-extraction")
    list_modules(directory, "Pooling", "Normalize")
    write(directory / "sentence_bert_config.json", {"max_seq_length": 20, "do_lower_case": False})
    write(directory / "config_sentence_transformers.json", {"__version__": {"sentence_transformers": "2.0.0"}})
    return directory


def settings_of(directory, **options):
    return open_checkpoint(str(directory), **options).sentence_transformers


def refused(directory, word, kind=UnsupportedModelError):
    checkpoint = open_checkpoint(str(directory))  # hidden states can be had all the same
    with pytest.raises(kind) as caught:
        _ = checkpoint.sentence_transformers
    message = str(caught.value)
    assert word in message
    assert str(directory) in message
    assert "\n" not in message
    assert len(message) < 500
    if kind is UnsupportedModelError:
        assert "pooling none" in message


def test_pooling_normalisation_and_length(checkpoint):
    assert settings_of(checkpoint) == SentenceTransformers("mean", normalize=True, max_seq_length=20)


def test_other_tasks_and_other_checkpoints_have_none(checkpoint, tmp_path):
    save_checkpoint(tmp_path / "plain", "bert", "feature-extraction")
    assert settings_of(tmp_path / "plain") is None
    save_checkpoint(tmp_path / "classifier", "bert", "text-classification")
    for path in checkpoint.glob("*.json"):
        if path.name in ("modules.json", "sentence_bert_config.json"):
            (tmp_path / "classifier" / path.name).write_bytes(path.read_bytes())
    assert settings_of(tmp_path / "classifier") is None


@pytest.mark.parametrize(
    ("entries", "mode"),
    [
        ({"pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode": "mean", "embedding_dimension": 48, "include_prompt": True}, "mean"),
        ({"pooling_mode": "cls", "include_prompt": True}, "cls"),
        ({"pooling_mode": ["cls"]}, "cls"),
        ({"pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": False}, "lasttoken"),
        ({"pooling_mode": "lasttoken"}, "lasttoken"),
        ({}, "mean"),  # what sentence-transformers does without any
        ({"pooling_mode_mean_tokens": False}, "mean"),
    ],
)
def test_pooling_modes_of_old_and_new_files(checkpoint, entries, mode):
    write(checkpoint / "1_Pooling" / "config.json", {"word_embedding_dimension": 48} | entries)
    assert settings_of(checkpoint).pooling == mode


@pytest.mark.parametrize(
    ("entries", "word"),
    [
        ({"pooling_mode_max_tokens": True}, "max"),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, "mean_sqrt_len_tokens"),
        ({"pooling_mode_weightedmean_tokens": True}, "weightedmean"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, "['cls', 'mean']"),
        ({"pooling_mode": ["mean", "max"]}, "max"),
        ({"pooling_mode": "fancy"}, "fancy"),
        ({"pooling_mode": 3}, "3"),
        ({"pooling_mode_mean_tokens": True, "include_prompt": False}, "include_prompt"),
        ({"pooling_mode_mean_tokens": True, "temperature": 2}, "temperature"),
    ],
)
def test_poolings_that_cannot_be_expressed(checkpoint, entries, word):
    write(checkpoint / "1_Pooling" / "config.json", {"word_embedding_dimension": 48} | entries)
    refused(checkpoint, word)


@pytest.mark.parametrize(
    "kinds",
    [
        ("Pooling", "LSTM"),
        ("Pooling", "LayerNorm"),
        ("WeightedLayerPooling", "Pooling"),
        ("Pooling", "Pooling"),
        ("Normalize", "Pooling"),
        ("CNN", "Pooling"),
        ("Pooling", "sentence_transformers.sparse_encoder.models.SpladePooling"),
        ("Pooling", "custom_st.Whitening"),
        ("Pooling", "os.system"),
    ],
)
def test_modules_that_cannot_be_expressed(checkpoint, kinds):
    list_modules(checkpoint, *kinds)
    refused(
        checkpoint, next((kind for kind in reversed(kinds) if kind not in ("Pooling",)), "Pooling").rsplit(".", 1)[-1]
    )


def test_dropout_does_nothing_here(checkpoint):
    list_modules(checkpoint, "Pooling", "Dropout", "Normalize")
    assert settings_of(checkpoint) == SentenceTransformers("mean", normalize=True, max_seq_length=20)


@pytest.mark.parametrize(
    ("entries", "word"),
    [
        ({"modules": []}, "1 to 16 modules"),
        ([], "1 to 16 modules"),
        ([{}], "names no type"),
        (["Transformer"], "names no type"),
        ([{"type": f"{OLD}.Transformer", "path": ""}] * 17, "1 to 16 modules"),
    ],
)
def test_a_list_of_modules_that_is_damaged(checkpoint, entries, word):
    write(checkpoint / "modules.json", entries)
    refused(checkpoint, word, CheckpointError)


def test_lists_that_end_without_an_embedding_or_begin_elsewhere(checkpoint):
    list_modules(checkpoint)
    refused(checkpoint, "names no Pooling")
    write(checkpoint / "modules.json", [{"type": f"{OLD}.BoW", "path": ""}])
    refused(checkpoint, "BoW")
    write(checkpoint / "modules.json", [{"type": f"{OLD}.Transformer", "path": "0_Transformer"}])
    refused(checkpoint, "0_Transformer")
    write(checkpoint / "modules.json", [{"type": f"{OLD}.Transformer", "path": "", "kwargs": ["task"]}])
    refused(checkpoint, "arguments of its own")


def test_a_folder_that_leads_out_of_the_checkpoint(checkpoint):
    entries = json.loads((checkpoint / "modules.json").read_text())
    entries[1]["path"] = "../.."
    write(checkpoint / "modules.json", entries)
    refused(checkpoint, "leads out of the checkpoint", CheckpointError)


def test_a_module_whose_file_is_missing(checkpoint):
    (checkpoint / "1_Pooling" / "config.json").unlink()
    refused(checkpoint, "1_Pooling/config.json, which is missing", CheckpointError)


@pytest.mark.parametrize("length", [-1, 1.5, "20", [20], True])
def test_a_length_that_is_none(checkpoint, length):
    write(checkpoint / "sentence_bert_config.json", {"max_seq_length": length, "do_lower_case": False})
    refused(checkpoint, "max_seq_length", CheckpointError)


def test_lengths_of_old_and_new_files(checkpoint):
    (checkpoint / "sentence_bert_config.json").rename(checkpoint / "sentence_distilbert_config.json")
    assert settings_of(checkpoint).max_seq_length == 20
    (checkpoint / "sentence_distilbert_config.json").unlink()
    assert settings_of(checkpoint).max_seq_length is None
    make_tokenizer(model_max_length=33).save_pretrained(checkpoint)
    assert settings_of(checkpoint).max_seq_length == 33


def test_a_longer_sequence_is_refused_with_both_numbers(checkpoint):
    settings = settings_of(checkpoint)
    settings.check_sequence_length(20)
    with pytest.raises(ShapeError, match=r"length 21 is above the 20 tokens .*sequence_length 20"):
        settings.check_sequence_length(21)
    SentenceTransformers("mean").check_sequence_length(10**6)


@pytest.mark.parametrize(
    "entries",
    [
        {},
        {"do_lower_case": False, "model_args": {}, "tokenizer_args": {}, "config_args": {}},
        {"model_args": {"attn_implementation": "eager", "add_pooling_layer": False}},
        {
            "transformer_task": "feature-extraction",
            "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
            "module_output_name": "token_embeddings",
            "unpad_inputs": True,
            "query_length": None,
        },
    ],
)
def test_options_of_the_transformer_that_change_nothing(checkpoint, entries):
    write(checkpoint / "sentence_bert_config.json", entries)
    assert settings_of(checkpoint) is not None


@pytest.mark.parametrize(
    ("entries", "word"),
    [
        ({"transformer_task": "fill-mask"}, "transformer_task"),
        ({"module_output_name": "sentence_embedding"}, "module_output_name"),
        ({"modality_config": {"image": {"method": "get_image_features"}}}, "modality_config"),
        ({"processing_kwargs": {"text": {"truncation": False}}}, "processing_kwargs"),
        ({"query_expansion": {"length": 32}}, "query_expansion"),
        ({"query_length": 12}, "query_length"),
        ({"model_args": {"num_hidden_layers": 1}}, "model_args"),
        ({"tokenizer_args": {"model_max_length": 5}}, "tokenizer_args"),
        ({"config_args": {"position_embedding_type": "relative_key"}}, "config_args"),
        ({"whitening": True}, "whitening"),
    ],
)
def test_options_of_the_transformer_that_cannot_be_expressed(checkpoint, entries, word):
    write(checkpoint / "sentence_bert_config.json", entries)
    refused(checkpoint, word)


def test_prompts_and_similarity(checkpoint):
    options = {"prompts": {"query": "query: ", "document": None}, "default_prompt_name": "query"}
    write(checkpoint / "config_sentence_transformers.json", options | {"similarity_fn_name": "dot"})
    settings = settings_of(checkpoint)
    assert settings.prompts == {"query": "query: ", "document": ""}
    assert settings.default_prompt_name == "query"
    assert settings.similarity == "dot"
    assert settings.describe() == (
        "sentence embeddings as the checkpoint's modules.json describes them: mean pooling, normalised, prompt "
        "'query' before every text"
    )


@pytest.mark.parametrize(
    ("entries", "word", "kind"),
    [
        ({"truncate_dim": 24}, "truncate_dim", UnsupportedModelError),
        ({"model_type": "SparseEncoder"}, "SparseEncoder", UnsupportedModelError),
        ({"model_type": "CrossEncoder"}, "CrossEncoder", UnsupportedModelError),
        ({"whiten": True}, "whiten", UnsupportedModelError),
        ({"prompts": {"query": 3}}, "prompts", CheckpointError),
        ({"prompts": ["query: "]}, "prompts", CheckpointError),
        ({"prompts": {"query": "q"}, "default_prompt_name": "document"}, "document", CheckpointError),
        ({"default_prompt_name": ["query"]}, "query", CheckpointError),
    ],
)
def test_options_of_the_whole_that_cannot_be_expressed(checkpoint, entries, word, kind):
    write(checkpoint / "config_sentence_transformers.json", entries)
    refused(checkpoint, word, kind)


@pytest.mark.parametrize("content", ["{", "[]", "null", "[" * 10_000])
def test_files_that_are_no_json_objects(checkpoint, content):
    (checkpoint / "config_sentence_transformers.json").write_text(content)
    refused(checkpoint, "config_sentence_transformers.json", CheckpointError)


def test_text_is_lower_cased_where_the_checkpoint_asks_for_it(checkpoint):
    write(checkpoint / "sentence_bert_config.json", {"do_lower_case": True})
    opened = open_checkpoint(str(checkpoint))
    upper, lower = "A FILM was Gripping", "a film was gripping"
    assert opened.tokenizer.encode(upper) != opened.tokenizer.encode(lower)
    assert opened.sentence_transformers.lower_case
    assert opened.tokenizer.encode(upper) == opened.tokenizer.encode(lower)
    normalizer = opened.tokenizer.backend_tokenizer.normalizer
    opened.sentence_transformers.prepare_tokenizer(opened.tokenizer)
    assert type(normalizer) is type(opened.tokenizer.backend_tokenizer.normalizer)
    assert len(opened.tokenizer.backend_tokenizer.normalizer) == 1


# Layers after the pooling


@pytest.mark.parametrize("activation", ["Tanh", "Identity", "ReLU", "GELU", "SiLU", "Sigmoid"])
@pytest.mark.parametrize("mode", ["mean", "cls"])
def test_the_module_computes_what_plain_torch_does(checkpoint, activation, mode):
    list_modules(checkpoint, "Pooling", "Dense", "Dense", "Normalize")
    write(checkpoint / "1_Pooling" / "config.json", {"pooling_mode": mode})
    place = "linear" if activation == "Identity" else "activation"
    write_dense(checkpoint / "2_Dense", 24, activation=f"torch.nn.modules.{place}.{activation}")
    write_dense(checkpoint / "3_Dense", 12, 24, seed=1, bias=False)
    settings = settings_of(checkpoint)
    assert [(each.in_features, each.out_features, each.bias) for each in settings.dense] == [
        (48, 24, True),
        (24, 12, False),
    ]
    torch.manual_seed(2)
    hidden = torch.randn(4, 9, 48)
    mask = (torch.arange(9)[None] < torch.tensor([9, 5, 2, 1])[:, None]).long()
    expected = settings.embed(hidden, mask)
    assert expected.shape == (4, 12)
    with torch.no_grad():
        assert psnr(expected, settings.make_pooling()(to_bc1s(hidden), mask)) > 110
    if mode == "mean":
        assert psnr(expected, settings.embed(hidden, mask.flip(0))) < 40


def test_embeddings_by_hand(checkpoint):
    """Two tokens of three, a layer that doubles and adds one, and the norm."""
    list_modules(checkpoint, "Pooling", "Dense", "Normalize")
    write_dense(checkpoint / "2_Dense", 2, 2, activation="torch.nn.modules.linear.Identity")
    save_file(
        {"linear.weight": 2 * torch.eye(2), "linear.bias": torch.ones(2)}, checkpoint / "2_Dense" / "model.safetensors"
    )
    settings = settings_of(checkpoint)
    hidden, mask = torch.tensor([[[1.0, 0.0], [0.0, 3.0], [9.0, 9.0]]]), torch.tensor([[1, 1, 0]])
    # mean (0.5, 1.5), doubled and one more (2, 4), length √20
    torch.testing.assert_close(settings.embed(hidden, mask), torch.tensor([[2.0, 4.0]]) / 20**0.5)
    torch.testing.assert_close(settings.make_pooling()(to_bc1s(hidden), mask), torch.tensor([[2.0, 4.0]]) / 20**0.5)


@pytest.mark.parametrize(
    ("entries", "word"),
    [
        ({"activation_function": "torch.nn.modules.activation.Softmax"}, "Softmax"),
        ({"activation_function": "os.system"}, "os.system"),
        ({"use_residual": True}, "residual"),
        ({"module_input_name": "token_embeddings"}, "token_embeddings"),
        ({"temperature": 1}, "temperature"),
    ],
)
def test_layers_that_cannot_be_expressed(checkpoint, entries, word):
    list_modules(checkpoint, "Pooling", "Dense")
    write_dense(checkpoint / "2_Dense", **entries)
    refused(checkpoint, word)


def test_a_layer_after_the_norm_or_with_pickled_weights(checkpoint):
    list_modules(checkpoint, "Pooling", "Normalize", "Dense")
    write_dense(checkpoint / "3_Dense")
    refused(checkpoint, "'Dense' after its 'Normalize'")
    list_modules(checkpoint, "Pooling", "Dense")
    write_dense(checkpoint / "2_Dense")
    (checkpoint / "2_Dense" / "model.safetensors").rename(checkpoint / "2_Dense" / "pytorch_model.bin")
    refused(checkpoint, "2_Dense/model.safetensors")


@pytest.mark.parametrize("widths", [(0, 24), (48, -1), (48, 1 << 30), ("48", 24), (True, 24), (None, 24)])
def test_widths_that_cannot_be(checkpoint, widths):
    list_modules(checkpoint, "Pooling", "Dense")
    write_dense(checkpoint / "2_Dense")
    write(checkpoint / "2_Dense" / "config.json", {"in_features": widths[0], "out_features": widths[1], "bias": True})
    refused(checkpoint, "in_features, out_features", CheckpointError)


def test_weights_that_do_not_fit_their_configuration(checkpoint):
    list_modules(checkpoint, "Pooling", "Dense")
    write_dense(checkpoint / "2_Dense")
    config = json.loads((checkpoint / "2_Dense" / "config.json").read_text())
    write(checkpoint / "2_Dense" / "config.json", config | {"out_features": 25})
    settings = settings_of(checkpoint)
    with pytest.raises(CheckpointError, match=r"\(24, 48\).*\(25, 48\)"):
        settings.make_pooling()


def test_norms_of_tokens_are_refused(checkpoint):
    write(checkpoint / "2_Normalize" / "config.json", {"module_input_name": "token_embeddings"})
    refused(checkpoint, "token_embeddings")


# The Hub


def test_a_hub_that_is_out_of_reach_is_no_silent_no(tmp_path):
    """Of a checkpoint that transformers cached, nobody knows whether it has a `modules.json`."""
    commit = "a" * 40
    cache = tmp_path / "models--some--one"
    save_checkpoint(cache / "snapshots" / commit, "bert", "feature-extraction")
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(commit)
    hub = HubOptions(cache_dir=str(tmp_path))
    checkpoint = open_checkpoint("some/one", hub=hub)
    assert checkpoint.sentence_transformers is None
    (note,) = checkpoint.notes
    assert "out of reach" in note
    assert "modules.json" in note
    # What the Hub's client writes once the Hub has said that there is none.
    (cache / ".no_exist" / commit).mkdir(parents=True)
    (cache / ".no_exist" / commit / "modules.json").touch()
    checkpoint = open_checkpoint("some/one", hub=hub)
    assert checkpoint.sentence_transformers is None
    assert checkpoint.notes == []
    list_modules(cache / "snapshots" / commit, "Pooling")
    (cache / ".no_exist" / commit / "modules.json").unlink()
    assert open_checkpoint("some/one", hub=hub).sentence_transformers.pooling == "mean"


# sentence-transformers itself


@pytest.mark.parametrize("mode", ["mean", "cls"])
def test_files_and_numbers_of_the_library_itself(mode, tmp_path):
    library = pytest.importorskip("sentence_transformers", reason="compares with sentence-transformers itself")
    modules = library.sentence_transformer.modules
    save_checkpoint(tmp_path / "base", "bert", "feature-extraction")
    torch.manual_seed(0)
    parts = [
        modules.Transformer(str(tmp_path / "base"), max_seq_length=20),
        modules.Pooling(48, mode),
        modules.Dense(48, 24, activation_function=torch.nn.GELU()),
        modules.Normalize(),
    ]
    theirs = library.SentenceTransformer(modules=parts, prompts={"query": "the film "}, default_prompt_name="query")
    theirs.save(str(tmp_path / "saved"))
    checkpoint = open_checkpoint(str(tmp_path / "saved"))
    settings = checkpoint.sentence_transformers
    assert (settings.pooling, settings.normalize, settings.max_seq_length) == (mode, True, 20)
    assert settings.prompts["query"] == "the film "
    assert settings.default_prompt_name == "query"
    texts = ["a gripping story", "not very good but fine and moving and great", "dull"]
    expected = torch.from_numpy(theirs.encode(texts))
    prompted = [settings.prompts[settings.default_prompt_name] + text for text in texts]
    inputs = checkpoint.tokenizer(prompted, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = checkpoint.original()(**inputs).last_hidden_state
        ours = settings.make_pooling()(to_bc1s(hidden), inputs["attention_mask"])
    assert psnr(expected, settings.embed(hidden, inputs["attention_mask"])) > 100
    assert psnr(expected, ours) > 100


def test_the_first_token_is_the_first_that_is_none_of_padding():
    """Left padding: as sentence-transformers 6 has it."""
    hidden = torch.arange(6.0).reshape(1, 3, 2)
    assert SentenceTransformers("cls").embed(hidden, torch.tensor([[0, 1, 1]])).tolist() == [[2.0, 3.0]]


def test_inputs_of_an_embedder_are_those_of_its_transformer(checkpoint):
    original = open_checkpoint(str(checkpoint)).original()
    expected = make_original("bert", "feature-extraction")
    inputs = make_inputs(expected, length=20)
    with torch.no_grad():
        assert torch.equal(original(**inputs).last_hidden_state, expected(**inputs).last_hidden_state)
