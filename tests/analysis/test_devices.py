import pytest

from optimum_ane.analysis.chips import ChipError
from optimum_ane.analysis.devices import device_names, get_device, read_devices
from optimum_ane.errors import InputError

TABLE = """
sources: {paper: a paper}
limits:
  phone:
    read_on: iPhone 13
    app: {value: 2, source: paper, trust: measured}
    entitled: {value: 3, source: paper, trust: measured}
devices:
  A15:
    iPhone 13: {memory_gib: 4, source: paper, trust: uncertain, limit: phone}
"""


def test_every_device_is_built_on_its_chip_and_has_memory_for_what_an_app_may_take():
    for name in device_names():
        device = get_device(name)
        assert name in device.chip.devices
        assert 0 < device.app_bytes <= device.entitled_bytes <= device.memory.value * 2**30


def test_a_device_is_found_whatever_its_case_and_spaces():
    device = get_device("iphone15pro")
    assert (device.name, device.chip.name, device.memory.value) == ("iPhone 15 Pro", "A17 Pro", 8)
    assert (device.app_bytes, device.entitled_bytes) == (3e9, 6e9)
    mac = get_device("MacBook Air M2")
    assert (mac.limit, mac.app_bytes) == (None, 8 * 2**30)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("iPhone 15 Prp", "did you mean iPhone 15 Pro or"),
        ("iPhone 12", None),
        ("MacBook Air", "did you mean MacBook Air M1 or MacBook Air M2 or MacBook Air M3"),
        ("A17 Pro", "is a chip.*: iPhone 15 Pro, iPhone 15 Pro Max, iPad mini 7"),
        ("Pixel 9", "no device is known as 'Pixel 9'.*iPhone 17 Pro.*and Macs by family and chip"),
    ],
)
def test_an_unknown_device_leads_to_those_that_are_near(name, says):
    if says is None:
        assert get_device(name).name == name
        return
    with pytest.raises(InputError, match=says):
        get_device(name)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("memory_gib: 4", "memory_gib: 0", "0 is not a number above 0"),
        ("memory_gib: 4", "memory: 4", "missing or unknown: memory, memory_gib"),
        ("limit: phone", "limit: tablet", "there is no limit 'tablet'"),
        ("A15:", "A99:", "no chip is known as 'A99'"),
        ("value: 3", "value: 1", "the entitlement takes memory away"),
        ("source: paper", "source: rumour", "source 'rumour'"),
        ("trust: uncertain", "trust: hearsay", "trust 'hearsay'"),
        ("sources:", "origins:", "holds sources, limits and devices"),
    ],
)
def test_a_table_that_cannot_be_right_is_refused(old, new, says):
    assert len(read_devices(TABLE)) == 1
    with pytest.raises(ChipError, match=says):
        read_devices(TABLE.replace(old, new, 1))
