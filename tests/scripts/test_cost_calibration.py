"""The committed fit: that it is one, and that what the documentation says of it is what it gives."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from cost_calibration import built_programs, fitting
from cost_calibration.program_steps import (
    PROGRAM_STEPS,
    ProgramStepsError,
    count_steps,
    read_program_steps,
    write_program_steps,
)
from cost_calibration.published_latencies import LatencyTableError, published_latencies, read_latencies
from cost_calibration.table import generated_part, table

from optimum_ane.analysis.chips import assume, get_chip
from optimum_ane.analysis.cost import step_cost
from optimum_ane.analysis.cost_parameters import cost_parameters
from optimum_ane.analysis.steps import Step

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs" / "cost-model.md"


def error(rows, parameters):
    return np.median([abs(row.predict(parameters) / row.published - 1) for row in rows])


def test_half_of_all_vision_and_encoder_rows_are_within_a_quarter():
    rows = [row for row in published_latencies().used if row.kind in ("vision", "encoder")]
    assert len(rows) >= 20
    assert error(rows, cost_parameters()) <= 0.25


def test_the_errors_are_those_that_the_documentation_states():
    errors = {cells[1].strip(): cells for cells in (line.split("|") for line in _errors()) if len(cells) > 4}
    rows = published_latencies().used
    for name, kinds in {"vision and encoders": ("vision", "encoder"), "diffusion": ("diffusion",)}.items():
        own = [row for row in rows if row.kind in kinds]
        assert errors[name][2].strip() == str(len(own))
        assert errors[name][3].strip() == f"{error(own, cost_parameters()):.0%}"


def _errors():
    return DOCS.read_text(encoding="utf-8").split("### Errors")[1].split("###")[0].splitlines()


def test_the_tables_of_the_documentation_are_what_the_committed_parameters_give():
    committed = generated_part(DOCS.read_text(encoding="utf-8"))
    made = table(published_latencies(), cost_parameters(), None)
    assert _without_left_out(committed) == _without_left_out(made)


def _without_left_out(text):
    """The text without the column of families left out, which takes minutes to compute."""
    lines, column = [], None
    for line in text.splitlines():
        cells = line.split("|")
        headings = [index for index, cell in enumerate(cells) if "family left out" in cell]
        if headings:
            column = headings[0]
        elif not line:
            column = None
        lines.append("|".join(cell for index, cell in enumerate(cells) if index != column))
    return lines


def test_no_parameter_alone_would_fit_better():
    data, parameters = published_latencies(), cost_parameters()
    series = [each for each in data.series if not each.held_out]
    least = fitting.loss(parameters, data.used, series)
    for name in fitting.BOUNDS:
        for factor in (0.9, 1.1):
            moved = replace(parameters, **{name: min(1.0, getattr(parameters, name) * factor)})
            if name in ("activation_bandwidth", "host_gbs"):
                moved = replace(parameters, **{name: getattr(parameters, name) * factor})
            assert fitting.loss(moved, data.used, series) >= least - 5e-4, name


def test_six_numbers_are_fitted_to_many_more_rows():
    assert len(fitting.BOUNDS) == 6
    assert len(published_latencies().used) >= 30


def test_the_range_holds_most_of_the_published_latencies():
    parameters, rows = cost_parameters(), published_latencies().used
    inside = [parameters.low <= row.published / row.predict(parameters) <= parameters.high for row in rows]
    assert np.mean(inside) >= 0.8


def test_latency_grows_with_length_as_was_published():
    for series in published_latencies().series:
        predicted = series.predict(cost_parameters())
        for name, ratio in series.published.items():
            assert predicted[name] == pytest.approx(ratio, rel=0.25), f"{series.id}: {name}"


def test_every_row_that_is_left_out_has_a_reason_and_every_other_a_latency_and_a_chip():
    for row in published_latencies().rows:
        if row.left_out is None:
            assert row.ms > 0
            assert row.chip
            assert row.program.steps
        else:
            assert len(row.left_out) > 10


def test_steps_that_are_written_are_read_back_the_same():
    text = PROGRAM_STEPS.read_text(encoding="utf-8")
    assert write_program_steps(read_program_steps(text)) == text


def test_stand_ins_have_the_arithmetic_and_the_weights_that_were_published():

    def size(tape):
        return sum(o.flops for o in tape.operations) / 2e9, sum(o.weight_bytes for o in tape.operations) / 2e6

    # "Searching for MobileNetV3", table 3: 56 M multiply-adds, 2.5 M parameters.
    assert size(built_programs.mobilenet_v3_small()) == pytest.approx((0.056, 2.5), rel=0.05)
    # Stable Diffusion 2.1's UNet has 866 M parameters.
    assert size(built_programs.stable_diffusion_unet())[1] == pytest.approx(866, rel=0.01)
    # Pythia-160M: 162.3 M parameters, 38.6 M of them in the embedding, which a prediction does not read.
    pythia = built_programs.decoder(12, 768, 3072, 12, 512, vocabulary=50304, rotates=True)
    assert size(pythia)[1] == pytest.approx(162.3 - 38.6, rel=0.01)


def test_converted_stand_ins_have_the_arithmetic_that_was_published():
    programs = read_program_steps(PROGRAM_STEPS.read_text(encoding="utf-8"))

    def products(name):
        kinds = ("convolution", "einsum", "linear")
        return sum(n * step.flops for step, n in programs[name].steps if step.kind in kinds) / 2e9

    assert products("resnet50") == pytest.approx(4.09, rel=0.02)  # torchvision: 4.09 GFLOPS
    assert products("mobilenet-v2") == pytest.approx(0.30, rel=0.02)  # torchvision: 0.30
    assert products("mobilevit-v2") == pytest.approx(1.8, rel=0.1)  # arXiv 2206.02680, table 1: 1.8 G
    # 24 layers of 12 · 1024² over 1500 positions and 2 · 1500² · 1024 of attention, and two convolutions before.
    layers = 24 * (12 * 1024**2 * 1500 + 2 * 1500**2 * 1024) + 3 * 80 * 1024 * 3000 + 3 * 1024**2 * 1500
    assert products("whisper-medium") == pytest.approx(layers / 1e9, rel=1e-3)


ROW = {
    "id": "x", "model": "m", "shape": "s", "device": "d", "chip": "A15", "os": "o", "ms": 1.0, "kind": "vision",
    "family": "f", "source": "s", "trust": "measured", "program": "w",
}  # fmt: skip


def read(row, series=()):
    document = {"sources": {"s": "somebody"}, "rows": [row], "series": list(series)}
    programs = read_program_steps('{"w": {"crossings": 1, "steps": [["convolution", 10, 16, 4, 2]]}}')
    return read_latencies(yaml.safe_dump(document), programs).rows[0]


def test_bits_shrink_the_weights_of_a_row():
    assert read(ROW | {"bits": 4}).program.steps == ((Step("convolution", 10, 4, 4), 2),)


def test_further_programs_cost_their_dispatch():
    parameters = cost_parameters()
    assert read(ROW | {"program_count": 3}).predict(parameters) == pytest.approx(
        read(ROW).predict(parameters) + 2 * 0.22
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ms": None}, "names a latency above 0 and a chip"),
        ({"chip": None}, "names a latency above 0 and a chip"),
        ({"chip": "iPhone 13"}, "iPhone 13 is not the name of a chip"),
        ({"kind": "audio"}, "kind 'audio'"),
        ({"source": "t"}, "source 't'"),
        ({"program": "v"}, "there is no program 'v'"),
        ({"colour": 1}, "missing or unknown: colour"),
        ({"left_out": ""}, "missing or unknown: program"),
    ],
)
def test_a_row_that_cannot_be_right_is_refused(changes, message):
    row = ROW | changes
    if "left_out" in changes:
        del row["program"]
    with pytest.raises(LatencyTableError, match=message):
        read(row)


def test_a_row_that_is_left_out_has_no_prediction():
    row = read({key: value for key, value in ROW.items() if key != "program"} | {"left_out": "a good reason"})
    with pytest.raises(LatencyTableError, match="x is left out: a good reason"):
        row.predict(cost_parameters())


def test_steps_of_an_unknown_kind_are_refused():
    with pytest.raises(ProgramStepsError, match="w: guess"):
        read_program_steps('{"w": {"crossings": 0, "steps": [["guess", 1, 1, 1, 1]]}}')


def test_counted_steps_cost_what_single_ones_cost():
    engine, parameters = assume(get_chip("A15")), cost_parameters()
    step = Step("convolution", 2 * 768 * 768 * 128, 2 * 768 * 768, 4 * 768 * 128)
    counted = count_steps([step, Step("free", 0, 0, 0), step, step], 2)
    assert counted.steps == ((step, 3),)
    expected = 3 * step_cost(step, engine, parameters).total + engine.dispatch_ms + 2 * parameters.crossing_ms
    assert counted.cost(engine, parameters).total == pytest.approx(expected)
