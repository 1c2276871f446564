"""The picture of a card: what it shows, and that the same packages give the same bytes."""

import dataclasses
import re
import xml.etree.ElementTree as ElementTree

import pytest
from card_packages import ACCURACY, RESIDENCY, changed, plain_package

from optimum_ane.charts import BLUE, PAPER
from optimum_ane.hub.card import make_card
from optimum_ane.hub.picture import make_picture
from optimum_ane.package.manifest import FunctionEntry, ImageEntry, ProgramEntry, TensorEntry
from optimum_ane.package.normalization import Normalization

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def package():
    return plain_package()


@pytest.fixture(scope="module")
def scored(package):
    first = changed(package, report={"accuracy": ACCURACY, "sizes": {"package": 45_300_000}})
    drop = {"drop": 1.5, "drop_interval": [0.5, 2.5]}
    second = {"accuracy": ACCURACY | drop, "sizes": {"package": 11_900_000}}
    return [first, changed(package, path="4-bit", compression="palettize-4bit", report=second)]


def words_of(picture):
    """What is written in a picture: matplotlib draws text as paths and leaves the words in comments."""
    return [word.strip() for word in re.findall(r"<!--(.*?)-->", picture.decode(), re.DOTALL)]


def test_there_is_none_where_there_is_nothing_to_compare(package, scored):
    assert make_picture([package]) is None
    assert make_picture(scored[:1]) is None  # one point is no comparison; the number is in the table
    other = changed(scored[1], report={"accuracy": scored[1].report["accuracy"] | {"dataset": "other.tsv"}})
    assert make_picture([scored[0], other]) is None
    for packages in ([package], scored[:1], [scored[0], other]):
        assert "![" not in make_card(packages, repo_id="org/model")


def test_accuracy_is_drawn_against_size(scored):
    picture = make_picture(scored)
    words = words_of(picture)
    assert {"float16", "4-bit", "size on disk, MB", "drop in accuracy, percentage points"} <= set(words)
    assert "Lost on dev.tsv, with its confidence interval" in words
    assert "![Size of each package, and what it loses in accuracy](card.svg)" in make_card(scored, repo_id="org/model")
    points = _points(picture)
    assert len(points) == 2
    (_, heavy_drop), (_, light_drop) = sorted(points, reverse=True)
    assert heavy_drop > light_drop  # downwards in SVG: the lighter package loses more


def _points(picture):
    """The centres of the round markers."""
    uses = [
        use for use in ElementTree.fromstring(picture).iter(f"{SVG}use") if f"stroke: {BLUE}" in use.get("style", "")
    ]
    return [(float(use.get("x")), float(use.get("y"))) for use in uses]


def test_operations_are_drawn_by_predicted_device(package):
    picture = make_picture([changed(package, report={"residency": RESIDENCY})])
    words = words_of(picture)
    assert {"Neural Engine: 391", "Neural Engine, under a condition: 6", "CPU or GPU: 3"} <= set(words)
    assert "operations, predicted from the program; not measured on a device" in words


def test_of_a_package_with_several_functions_each_has_a_bar():
    functions = {f"seq_{n}": {"operations": {"ane": 100 * n, "conditional": 0, "fallback": n}} for n in (8, 16)}
    package = changed(plain_package(sequence_length=(8, 16)), report={"residency": RESIDENCY, "functions": functions})
    words = words_of(make_picture([package]))
    assert {"seq_8", "seq_16", "800", "1600", "Neural Engine", "CPU or GPU"} <= set(words)
    assert "391" not in words
    beside = words_of(make_picture([package, changed(package, path="other")]))
    assert {"float16", "other", "391"} <= set(beside)
    assert "seq_8" not in beside


def test_what_no_operation_runs_on_is_not_in_the_key(package):
    operations = {"operations": {"ane": 400, "conditional": 0}}
    words = words_of(make_picture([changed(package, report={"residency": operations})]))
    assert "Neural Engine: 400" in words
    assert not [word for word in words if word.startswith("CPU")]


def test_it_carries_its_own_background_and_fonts(scored):
    root = ElementTree.fromstring(make_picture(scored))
    panel = next(root.iter(f"{SVG}path"))
    assert f"fill: {PAPER}" in panel.get("style")
    assert "opacity" not in panel.get("style")
    assert not list(root.iter(f"{SVG}text"))
    links = [value for node in root.iter() for name, value in node.attrib.items() if name.endswith("href")]
    assert links
    assert all(link.startswith("#") for link in links)


def test_the_same_packages_give_the_same_bytes(scored):
    picture = make_picture(scored)
    assert make_picture(scored[::-1]) == picture
    assert b"dc:date" not in picture


def test_names_of_strangers_are_drawn_and_nothing_more(scored):
    evil = "$\\frac{1}$ --> <script>x</script> " + "long " * 40
    picture = make_picture([scored[0], changed(scored[1], path=evil)])
    root = ElementTree.fromstring(picture)
    assert not list(root.iter(f"{SVG}script"))
    assert not [node for node in root.iter() if "script" in str(node.tag)]


def of_images(package, normalization, fit="crop"):
    """The same package, of images."""
    pixels = TensorEntry("pixel_values", (1, 3, 40, 72), "float32", "")
    function = FunctionEntry("main", (pixels,), (TensorEntry("logits", (1, 2), "float16", ""),))
    form = dataclasses.replace(package.manifest.form, task="image-classification", image_size=(40, 72))
    manifest = dataclasses.replace(
        package.manifest,
        form=form,
        programs=(ProgramEntry("model", (function,)),),
        image=ImageEntry(40, 72, 3, normalization=normalization, fit=fit),
        text=None,
    )
    return dataclasses.replace(package, manifest=manifest)


def test_of_images_the_way_into_the_package_is_drawn(package):
    taken = of_images(package, Normalization("BGR", (1.0,) * 3, (0.0,) * 3))
    words = words_of(make_picture([taken]))
    assert {"any image", "40 × 72 pixels", "scaled, middle cropped", "from BGR of 8 bits", "logits"} <= set(words)
    assert {"your app, or Vision", "this package"} <= set(words)
    assert "![What becomes of an image, and who does it](card.svg)" in make_card([taken], repo_id="org/model")
    assert make_picture([taken]) == make_picture([taken])


def test_of_tensors_the_app_normalises(package):
    taken = changed(of_images(package, None, fit=""), report={"residency": RESIDENCY})
    words = words_of(make_picture([taken]))
    assert {"to 3 × 40 × 72 floats", "your app", "Neural Engine: 391"} <= set(words)
    assert "your app, or Vision" not in words
