import json

import pytest
from command_line import run_command
from transformers import LlamaConfig

from optimum_ane.commands.plan import PlanCommand


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A directory with a configuration and nothing else."""
    directory = tmp_path_factory.mktemp("checkpoint")
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 2, "num_hidden_layers": 16}
    LlamaConfig(**sizes, vocab_size=100, tie_word_embeddings=True).save_pretrained(directory)
    return directory


@pytest.fixture
def run(checkpoint, capsys):
    """Runs the command; returns stdout, or the one line of an error."""

    def command(*line, code=0, device="iPhone 15 Pro", context="256", where=checkpoint):
        arguments = [where, "--device", device, "--context-length", context, *line]
        run_command(PlanCommand, "plan", arguments, code)
        output = capsys.readouterr()
        if code:
            assert len(output.err.splitlines()) == 1, output.err
            return output.err
        return output.out

    return command


def test_the_forms_of_the_weights_stand_side_by_side_with_a_verdict_and_its_reasons(run):
    said = " ".join(run("--chunks", "auto").split())
    for recipe in ("float16", "int8", "palette6", "palette4-g16", "palette4-g16-feed-forward"):
        assert f"{recipe}: fits; most of a token's time goes to" in said
    assert "nothing was run; memory and speed are estimates" in said
    assert "2 programs: 15 layers and 950 MB of float16 at most in one" in said
    assert "6 GB with com.apple.developer.kernel.increased-memory-limit, read on iPhone 15 Pro" in said
    assert "…" not in said


def test_json_is_pure_and_holds_bytes(run):
    answer = json.loads(run("--json", "--compress", "float16", "--chunks", "1"))
    assert (answer["estimate"], answer["layers"], answer["chip"]) == (True, 16, "A17 Pro")
    (plan,) = answer["plans"]
    layer = 4 * 64 * 64 + 3 * 64 * 96 + 2 * 64
    angles = 256 * 2 * 32 * 2
    assert plan["weight_bytes"] == 2 * (100 * 64 + 16 * layer + 64) + angles
    assert plan["memory_bytes"]["state"] == 2 * 16 * 2 * 256 * 32 * 2
    rates = plan["estimates"]["tokens_per_second"]
    assert 0 < rates["low"] < rates["typical"] < rates["high"]


def test_feed_forward_layers_are_told_by_their_names(run):
    sizes = {
        name: json.loads(run("--json", "--compress", name, "--chunks", "1"))["plans"][0]["weight_bytes"]
        for name in ("int8", "palette4-g16-feed-forward")
    }
    # Half of the bytes of int8 in 16 layers of three matrices, and a palette for 16 outputs in place of 16 scales.
    saved = 16 * (3 * 64 * 96 // 2 - (2 * 96 + 64) // 16 * (16 * 2 - 16 * 2))
    assert sizes["int8"] - sizes["palette4-g16-feed-forward"] == saved


def test_a_recipe_of_ones_own_is_planned(run, tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("summary: all\npsnr: 1\nsteps:\n  - {kind: palettize, global: {nbits: 4}}\n")
    sizes = [json.loads(run("--json", "--compress", name))["plans"][0]["weight_bytes"] for name in ("int8", recipe)]
    assert 0.4 < sizes[1] / sizes[0] < 0.75


@pytest.mark.parametrize(
    ("line", "more", "says"),
    [
        ((), {"device": "iPhone 15 Prp"}, "did you mean iPhone 15 Pro"),
        ((), {"device": "A17 Pro"}, "is a chip, and a plan is for a device"),
        (("--compress", "palete6"), {}, "did you mean 'palette6'"),
        (("--chunks", "17"), {}, "--chunks is 17; the model has 16 layers"),
        (("--prompt-length", "256"), {}, "leaves no row of --context-length 256"),
        ((), {"where": "/nowhere/at/all"}, "/nowhere/at/all"),
    ],
)
def test_what_cannot_be_planned_is_said_in_one_line(run, line, more, says):
    assert says in run(*line, code=1, **more)
