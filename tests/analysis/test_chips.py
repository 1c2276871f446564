import pytest
import yaml

from optimum_ane.analysis import chips
from optimum_ane.analysis.chips import ChipError, assume, chip_names, get_chip, read_chips
from optimum_ane.errors import InputError


def row(**changes):
    datum = {"value": 1, "source": "s", "trust": "measured"}
    fields = dict.fromkeys(("apple_tops", "fp16_tflops", "bandwidth_gbs", "dram_gbs", "dispatch_ms"), datum)
    fields |= {"working_set_mb": None, "generation": "h13", "devices": ["d"], "cores": 16, "counted": "fp16"}
    return fields | {"like": None} | changes


def read(**rows):
    return read_chips(yaml.safe_dump({"sources": {"s": "somebody"}, "chips": rows}))


def test_all_chips_from_a14_to_a19_and_m1_to_m5_are_known():
    phones = {"A14", "A15", "A16", "A17 Pro", "A18", "A18 Pro", "A19", "A19 Pro"}
    assert phones <= set(chip_names())
    assert {f"M{n}" for n in range(1, 6)} <= set(chip_names())
    assert {f"M{n} Max" for n in range(1, 6)} <= set(chip_names())


@pytest.mark.parametrize(
    ("name", "found"),
    [("A15", "A15"), ("a15", "A15"), ("iPhone 13", "A15"), ("iphone 15 pro", "A17 Pro"), ("m2ultra", "M2 Ultra")],
)
def test_a_chip_is_found_by_its_name_or_by_a_device(name, found):
    assert get_chip(name).name == found


def test_an_unknown_chip_is_an_error_that_holds_the_names_that_are_near():
    with pytest.raises(InputError, match=r"no chip is known as 'A17'; did you mean A17 Pro\?.*M5 Max"):
        get_chip("A17")
    with pytest.raises(InputError, match=r"did you mean .*iPhone 16 Pro"):
        get_chip("iPhone 16 Prro")


def test_an_empty_name_is_an_error():
    with pytest.raises(InputError, match="no chip is known as ''"):
        get_chip("")


def test_generations_grow_with_the_years_and_pair_phones_with_macs():
    order = ["A14", "A15", "A16", "A17 Pro", "A18", "A19"]
    generations = [get_chip(name).generation for name in order]
    assert generations == sorted(set(generations))
    pairs = [("A14", "M1"), ("A15", "M2"), ("A16", "M3"), ("A17 Pro", "M4"), ("A18", "M5")]
    assert all(get_chip(a).generation == get_chip(m).generation for a, m in pairs)


def test_the_fp16_peak_is_half_of_what_apple_states_where_that_counts_int8():
    for name in chip_names():
        chip = get_chip(name)
        if chip.counted == "int8":
            assert chip.fp16_tflops.value == pytest.approx(chip.apple_tops.value / 2, rel=0.03)
        elif chip.counted == "fp16" and not name.endswith("Ultra"):
            assert chip.fp16_tflops.value == chip.apple_tops.value


def test_an_engine_of_a_known_chip_needs_no_assumption():
    engine = assume(get_chip("M1"))
    assert (engine.tflops, engine.bandwidth_gbs, engine.dispatch_ms) == (11, 60.9, 0.22)
    assert engine.assumptions == ()


def test_what_is_not_known_is_taken_from_another_chip_and_said():
    engine = assume(get_chip("A15"))
    assert engine.bandwidth_gbs == pytest.approx(34.1 * 60.9 / 68.3)
    assert engine.dispatch_ms == 0.22
    assert len(engine.assumptions) == 2
    assert "89% of its memory's 34.1, as on M1" in engine.assumptions[0]
    assert "dispatch in ms: 0.22, as of M1; unknown for A15" in engine.assumptions[1]


def test_no_engine_draws_more_than_its_memory_gives():
    for name in chip_names():
        chip = get_chip(name)
        if chip.dram_gbs is not None:
            assert assume(chip).bandwidth_gbs < chip.dram_gbs.value


def test_every_chip_has_an_engine():
    for name in chip_names():
        engine = assume(get_chip(name))
        assert 5 < engine.tflops < 50
        assert 20 < engine.bandwidth_gbs < 200
        assert 0.05 < engine.dispatch_ms < 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"devices": []}, "devices are at least one"),
        ({"generation": "h"}, "generation is h and a number"),
        ({"counted": "int16"}, "counted says what apple_tops counts"),
        ({"apple_tops": None}, "counted says what apple_tops counts"),
        ({"fp16_tflops": 11}, "a datum is null or holds value, source and trust"),
        ({"fp16_tflops": {"value": 0, "source": "s", "trust": "measured"}}, "0 is not a number above 0"),
        ({"fp16_tflops": {"value": True, "source": "s", "trust": "measured"}}, "True is not a number"),
        ({"fp16_tflops": {"value": 1, "source": "t", "trust": "measured"}}, "source 't'"),
        ({"fp16_tflops": {"value": 1, "source": "s", "trust": "rumour"}}, "trust 'rumour'"),
        ({"fp16_tflops": None}, "fp16_tflops is null, and so it is"),
        ({"fp16_tflops": None, "like": "Z"}, "there is no chip 'Z'"),
        ({"fp16_tflops": None, "like": "X"}, "X is like X"),
        ({"colour": "red"}, "missing or unknown: colour"),
    ],
)
def test_a_row_that_cannot_be_right_is_refused(changes, message):
    with pytest.raises(ChipError, match=message):
        read(X=row(**changes))


def test_two_chips_of_one_name_are_refused():
    with pytest.raises(ChipError, match="two chips go by d"):
        read(X=row(), Y=row())


def test_a_field_that_is_missing_is_named():
    incomplete = row()
    del incomplete["cores"]
    with pytest.raises(ChipError, match="X: missing or unknown: cores"):
        read(X=incomplete)


def test_the_share_of_memory_is_that_of_the_chip_in_the_table():
    name, engine, memory = chips.SHARE_OF_DRAM
    assert getattr(get_chip(name), engine).value / getattr(get_chip(name), memory).value == pytest.approx(
        0.892, abs=1e-3
    )
