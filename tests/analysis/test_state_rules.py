"""Each rule for states and functions has a program that breaks it and one that keeps it."""

from types import SimpleNamespace

import coremltools as ct
import numpy as np
import pytest
from analysis_programs import program_of, read_as, save_program
from coremltools.converters.mil import Builder as mb  # noqa: N813

from optimum_ane.analysis.chips import get_chip
from optimum_ane.analysis.html_report import render_html
from optimum_ane.analysis.inspection import inspect
from optimum_ane.analysis.lint import lint, read_state_rules, state_rules
from optimum_ane.analysis.rules import RuleError
from optimum_ane.analysis.state_use import state_uses, written_layers
from optimum_ane.analysis.tables import print_inspection
from optimum_ane.errors import ValidationError
from optimum_ane.workflows.stages import tell_broken_rules

ROW = "fp16 1 2 1 32"
"""Keys of a token, two heads of 32."""
CACHE = "fp16 4 2 16 32"
"""Keys and values of two layers, 16 rows of context."""


def written(x, cache, entry=0):
    """Writes one row into an entry of the state's first axis, and gives the updated state."""
    begin, end = [entry, 0, 3, 0], [entry + 1, 2, 4, 32]
    after = mb.slice_update(x=mb.read_state(input=cache), update=x, begin=begin, end=end)
    return mb.coreml_update_state(state=cache, value=after)


def summed(*values):
    return mb.reduce_sum(x=values[0] if len(values) == 1 else mb.concat(values=values, axis=1), axes=[0, 1])


def stateful(build=None, x=ROW, **states):
    """A program that writes a row into each of its states, and does as `build` says besides."""
    states = states or {"cache": CACHE}

    def body(x, **given):
        caches = {name: given[name] for name in states}
        updated = [written(x, cache) for cache in caches.values()]
        return summed(*updated) if build is None else build(x, *updated)

    return program_of(body, ct.target.iOS18, states, x=x)


def decoder(layers):
    """Two updates a layer, of its keys and of its values, into one state."""

    def body(x, cache):
        for entry in range(2 * layers):
            after = written(x, cache, entry)
        return summed(after)

    return program_of(body, ct.target.iOS18, {"cache": f"fp16 {2 * layers} 2 16 32"}, x=ROW)


def updated_twice(x, key, value):
    return summed(*(written(x, cache, entry) for cache in (key, value) for entry in (0, 1)))


def raw(x, cache):
    """The scores take what was in the state before."""
    before = mb.read_state(input=cache)
    after = mb.slice_update(x=before, update=x, begin=[0, 0, 3, 0], end=[1, 2, 4, 32])
    kept = mb.coreml_update_state(state=cache, value=after)
    seen = mb.slice_by_size(x=before, begin=[0, 0, 0, 0], size=[1, 2, 16, 32])
    return mb.matmul(x=x, y=seen, transpose_y=True, name="scores"), summed(kept)


def blended(x, cache):
    """The state is read for its update alone, through products with a mask."""
    before = mb.read_state(input=cache)
    mask = np.zeros((1, 1, 16, 1), np.float16)
    after = mb.add(x=mb.mul(x=before, y=np.float16(1) - mask), y=mb.mul(x=x, y=mask))
    kept = mb.coreml_update_state(state=cache, value=after)
    return mb.matmul(x=x, y=mb.slice_by_size(x=kept, begin=[0] * 4, size=[1, 2, 16, 32]), transpose_y=True)


def of_states(build, **states):
    return program_of(build, ct.target.iOS18, states, x=ROW)


def head(outputs):
    def build(x, updated):
        rows = mb.reshape(x=x, shape=[1, 64, 1, 1])
        return mb.conv(x=rows, weight=np.ones((outputs, 64, 1, 1), np.float16)), summed(updated)

    return stateful(build)


def split_head(x, updated):
    rows = mb.reshape(x=x, shape=[1, 64, 1, 1])
    parts = [mb.conv(x=rows, weight=np.ones((10_000, 64, 1, 1), np.float16)) for _ in range(2)]
    return mb.concat(values=parts, axis=1), summed(updated)


def looked_up(rows):
    def body(ids, x, cache):
        table = np.ones((rows, 1), np.float16)
        return mb.gather(x=table, indices=ids, axis=0), summed(written(x, cache))

    return program_of(body, ct.target.iOS18, {"cache": CACHE}, ids="int32 1", x=ROW)


def flexible(kind, state=True, functions=1):
    program = stateful() if state else program_of(lambda x: mb.relu(x=x), x=ROW)
    return read_as(program, flexibility=kind, others=("prefill",) * (functions - 1))


def rolled(x, updated):
    kept = mb.slice_by_size(x=updated, begin=[0, 0, 1, 0], size=[4, 2, 15, 32])
    return summed(mb.concat(values=(kept, mb.tile(x=x, reps=[4, 1, 1, 1])), axis=2))


def stacked(x, updated):
    return summed(mb.concat(values=(x, x), axis=0)), summed(updated)


def of_rank(rank):
    def build(x, updated):
        return mb.relu(x=mb.reshape(x=x, shape=[1] * (rank - 2) + [2, 32])), summed(updated)

    return stateful(build)


def attention(build):
    return stateful(lambda x, updated: (build(x), summed(updated)))


def fused(x):
    return mb.scaled_dot_product_attention(query=x, key=x, value=x)


def by_products(x):
    return mb.matmul(x=mb.softmax(x=mb.matmul(x=x, y=x, transpose_y=True)), y=x)


def data_shaped(x, updated):
    size = mb.reduce_max(x=mb.cast(x=x, dtype="int32"), axes=[0, 1, 2, 3], keep_dims=False)
    return mb.reshape(x=x, shape=mb.stack(values=(size, np.int32(-1)), axis=0)), summed(updated)


# By rule: what breaks it, and what keeps it.
PROGRAMS = {
    "enumerated-shapes-with-a-state": (lambda: flexible("enumerated"), lambda: flexible("enumerated", state=False)),
    "range-with-several-functions": (lambda: flexible("range", functions=2), lambda: flexible("range")),
    "range-with-a-state": (lambda: flexible("range"), lambda: flexible("none")),
    "shape-from-data-with-a-state": (lambda: stateful(data_shaped), stateful),
    "many-updates-of-many-states": (
        lambda: of_states(updated_twice, key=CACHE, value=CACHE),
        lambda: stateful(None, key=CACHE, value=CACHE),
    ),
    "states-of-several-shapes": (
        lambda: stateful(lambda x, a, b: (summed(a), summed(b)), key=CACHE, value="fp16 4 2 8 32"),
        lambda: stateful(None, key=CACHE, value=CACHE),
    ),
    "raw-state-used": (lambda: of_states(raw, cache=CACHE), lambda: of_states(blended, cache=CACHE)),
    "state-width": (
        lambda: program_of(
            lambda x, cache: mb.coreml_update_state(state=cache, value=mb.add(x=mb.read_state(input=cache), y=x)),
            ct.target.iOS18, {"cache": "fp16 1 2 1 48"}, x="fp16 1 2 1 48",
        ),
        stateful,
    ),
    "rank-with-a-state": (lambda: of_rank(5), lambda: of_rank(4)),
    "dimension-above-16384": (lambda: head(20_000), lambda: stateful(split_head)),
    "dimension-above-65536": (lambda: head(70_000), lambda: head(20_000)),
    "concat-shaped-as-a-state": (lambda: stateful(rolled), lambda: stateful(stacked)),
    "fused-attention-with-a-state": (lambda: attention(fused), lambda: attention(by_products)),
    "vocabulary-above-65535": (lambda: looked_up(65_536), lambda: looked_up(65_535)),
    "program-above-1400-mb": (
        lambda: read_as(stateful(), weight_bytes=1_400_000_001),
        lambda: read_as(stateful(), weight_bytes=1_400_000_000),
    ),
    "layers-above-15": (lambda: decoder(16), lambda: decoder(15)),
}  # fmt: skip


def broken(program, chip=None):
    return [finding.rule.id for finding in lint(program, None if chip is None else get_chip(chip))]


def test_every_rule_has_programs_and_every_program_a_rule():
    assert PROGRAMS.keys() == {rule.id for rule in state_rules()}


@pytest.mark.parametrize("rule", PROGRAMS)
def test_a_rule_is_broken_by_one_program_and_kept_by_another(rule):
    breaks, keeps = PROGRAMS[rule]
    assert rule in broken(breaks())
    assert rule not in broken(keeps())


def test_what_shows_a_part_of_the_raw_state_is_no_reader_and_what_computes_with_it_is():
    (finding,) = lint(of_states(raw, cache=CACHE))
    assert (finding.rule.severity, finding.names) == ("error", ("scores",))
    assert "anemll-forge" in finding.sentence()


@pytest.mark.parametrize(("chip", "expected"), [(None, True), ("A14", True), ("A15", False)])
def test_a_rule_for_old_chips_is_told_where_the_chip_is_old_or_not_named(chip, expected):
    program = stateful(lambda x, a, b: (summed(a), summed(b)), key=CACHE, value="fp16 4 2 8 32")
    assert ("states-of-several-shapes" in broken(program, chip)) is expected


@pytest.mark.parametrize("layers", [1, 3])
def test_layers_are_counted_by_what_is_written(layers):
    uses = state_uses(decoder(layers))
    assert (written_layers(uses), len(uses[0].updates)) == (layers, 2 * layers)


def test_an_inspection_tells_what_is_broken(tmp_path, capsys):
    path = save_program(tmp_path / "raw.mlpackage", raw, {"x": ROW}, ct.target.iOS18, {"cache": CACHE})
    inspection = inspect(path)
    print_inspection(inspection)
    said = " ".join(capsys.readouterr().out.split())
    assert "Rules for states and functions that it breaks raw-state-used (error) scores" in said
    (told,) = inspection.summary()["broken_rules"]
    assert (told["rule"], told["names"], told["trust"]) == ("raw-state-used", ["scores"], "measured")
    assert 'class="finding error"><p><b>raw-state-used</b>' in render_html(inspection, None)


def inspected(program):
    return SimpleNamespace(findings=lint(program))


def test_an_export_warns_once_of_what_several_functions_break_and_refuses_what_does_not_load():
    warned = []
    draft = SimpleNamespace(warn=warned.append)
    tell_broken_rules(draft, {"infer": inspected(of_rank(5)), "prefill": inspected(of_rank(5))})
    assert [text.split("(")[0] for text in warned] == ["infer, prefill: rank-with-a-state "]
    with pytest.raises(ValidationError, match="does not load: raw-state-used"):
        tell_broken_rules(draft, {"infer": inspected(of_states(raw, cache=CACHE))})


ROW_OF_TABLE = {
    "id": "first", "check": "width_off", "limit": "32", "severity": "warning", "reason": "Because.", "remedy": "Do.",
    "source": "a paper", "trust": "apple",
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"check": "phase_of_the_moon"}, "check is one of flexible_shapes"),
        ({"limit": "many"}, "width_off does not take 'many'"),
        ({"limit": None}, "width_off does not take None"),
        ({"severity": "fatal"}, "severity is one of error, warning"),
        ({"trust": "hearsay"}, "trust is one of apple"),
        ({"source": None}, "lacks source"),
        ({"when": "always"}, "unknown fields: when"),
        ({"before": "A99"}, "no chip is known as 'A99'"),
        ({"stateless": "false"}, "stateless is true or left out"),
    ],
)
def test_a_table_that_cannot_be_right_is_refused(changes, says):
    fields = ROW_OF_TABLE | changes
    row = "- " + "\n  ".join(f"{name}: {value}" for name, value in fields.items() if value is not None) + "\n"
    with pytest.raises(RuleError, match=says):
        read_state_rules(row)
    with pytest.raises(RuleError, match="two rules"):
        read_state_rules(2 * ("- " + "\n  ".join(f"{k}: {v}" for k, v in ROW_OF_TABLE.items()) + "\n"))
