"""Images as inputs and outputs: layouts, scale and bias, sizes, and what is refused."""

from __future__ import annotations

import subprocess
import sys
import warnings

import coremltools as ct
import numpy as np
import pytest
import torch
from PIL import Image
from portable_attacks import edit, refused
from portable_programs import save_module

from optimum_ane.errors import ExecutionError, InputError, PackageError
from optimum_ane.runtimes.arrays import random_arrays
from optimum_ane.runtimes.coreml import CoreMLSession
from optimum_ane.runtimes.portable import PortableSession, enable_predict
from optimum_ane.runtimes.session import TensorSpec

LAYOUTS = {name: getattr(ct.colorlayout, name) for name in ("RGB", "BGR", "GRAYSCALE", "GRAYSCALE_FLOAT16")}
HEIGHT, WIDTH = 5, 7
FP32 = {"compute_precision": ct.precision.FLOAT32, "minimum_deployment_target": ct.target.iOS16}


class Mix(torch.nn.Module):
    """Gives each channel a weight of its own, so that an exchange of channels shows."""

    def __init__(self, layout):
        super().__init__()
        weights = [1.0, 10.0, 100.0] if layout in ("RGB", "BGR") else [1.0]
        self.register_buffer("weights", torch.tensor(weights)[:, None, None])

    def forward(self, x):
        return x * self.weights + 0.25


class Half(torch.nn.Module):
    def forward(self, x):
        return x * 0.5


def _example(layout):
    return torch.zeros(1, 3 if layout in ("RGB", "BGR") else 1, HEIGHT, WIDTH)


def _random_picture(rng, layout, height=HEIGHT, width=WIDTH):
    if layout in ("RGB", "BGR"):
        return Image.fromarray(rng.integers(0, 256, (height, width, 3)).astype(np.uint8))
    if layout == "GRAYSCALE":
        return Image.fromarray(rng.integers(0, 256, (height, width)).astype(np.uint8))
    return Image.fromarray(rng.standard_normal((height, width)).astype(np.float32))


def _save(path, module, layout, *, output=None, shape=None, **options):
    example = _example(layout)
    inputs = [ct.ImageType("x", shape or example.shape, color_layout=LAYOUTS[layout], **options)]
    outputs = [ct.ImageType("y", color_layout=LAYOUTS[output])] if output else [ct.TensorType("y", dtype=np.float32)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return save_module(path, module, {"x": example}, inputs=inputs, outputs=outputs, **FP32)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_input_takes_a_picture_or_an_array_of_its_layout(tmp_path, rng, layout):
    session = PortableSession(_save(tmp_path / "m.mlpackage", Mix(layout), layout))
    half = layout == "GRAYSCALE_FLOAT16"
    count = 3 if layout in ("RGB", "BGR") else 1
    dtype = "float16" if half else "float32"
    assert session.inputs["x"] == TensorSpec("x", (1, count, HEIGHT, WIDTH), dtype, layout)
    assert session.outputs["y"].image == ""

    picture = _random_picture(rng, layout)
    numbers = np.asarray(picture)
    planes = [numbers[..., i] for i in range(3)] if count == 3 else [numbers]
    planes = planes[::-1] if layout == "BGR" else planes
    planes = [plane.astype(np.float16).astype(np.float32) if half else plane.astype(np.float32) for plane in planes]
    expected = np.stack([plane * weight + 0.25 for plane, weight in zip(planes, [1, 10, 100], strict=False)])[None]
    result = session.predict({"x": picture})["y"]
    # In the layout of fp16 coremltools hands the program an fp16 tensor, which it widens.
    np.testing.assert_allclose(result, expected, rtol=1e-6, atol=1e-6)

    array = np.stack(planes)[None]
    for given in (array, torch.from_numpy(array), array.tolist(), array if half else array.astype(np.uint8)):
        np.testing.assert_array_equal(session.predict({"x": given})["y"], result)


@pytest.mark.parametrize(
    ("layout", "bias"), [("RGB", [-1.0, -0.5, 0.25]), ("BGR", [-1.0, -0.5, 0.25]), ("GRAYSCALE", -1.0)]
)
def test_scale_and_bias_belong_to_the_program(tmp_path, rng, layout, bias):
    session = PortableSession(_save(tmp_path / "m.mlpackage", Mix(layout), layout, scale=1 / 127.5, bias=bias))
    picture = _random_picture(rng, layout)
    numbers = np.asarray(picture, np.float32).reshape(HEIGHT, WIDTH, -1).transpose(2, 0, 1)
    numbers = numbers[::-1] if layout == "BGR" else numbers
    scaled = torch.from_numpy(numbers / 127.5 + np.reshape(bias, (-1, 1, 1)).astype(np.float32))[None]
    expected = Mix(layout)(scaled)
    np.testing.assert_allclose(session.predict({"x": picture})["y"], expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_output_is_a_picture_as_core_ml_gives_it(tmp_path, rng, layout):
    session = PortableSession(_save(tmp_path / "m.mlpackage", Half(), layout, output=layout))
    half = layout == "GRAYSCALE_FLOAT16"
    assert session.outputs["y"].image == layout
    assert session.outputs["y"].shape == session.inputs["x"].shape
    picture = _random_picture(rng, layout)
    given, result = np.asarray(picture), session.predict({"x": picture})["y"]
    assert result.size == (WIDTH, HEIGHT)
    assert result.mode == {"RGB": "RGBA", "BGR": "RGBA", "GRAYSCALE": "L", "GRAYSCALE_FLOAT16": "F"}[layout]
    numbers = np.asarray(result)
    if half:
        np.testing.assert_array_equal(numbers, (given.astype(np.float16) * np.float16(0.5)).astype(np.float32))
        return
    expected = np.floor(given / 2 + 0.5)
    np.testing.assert_array_equal(numbers[..., :3] if numbers.ndim == 3 else numbers, expected)
    if numbers.ndim == 3:
        assert (numbers[..., 3] == 255).all()


def test_grey_that_the_program_takes_in_eight_bits(tmp_path, rng):
    class Widened(torch.nn.Module):
        def forward(self, x):
            return x.to(torch.float32) * 0.5

    options = {
        "inputs": [
            ct.ImageType("x", (1, 1, HEIGHT, WIDTH), color_layout=LAYOUTS["GRAYSCALE"], grayscale_use_uint8=True)
        ],
        "outputs": [ct.TensorType("y", dtype=np.float32)],
        "minimum_deployment_target": ct.target.iOS17,
    }
    example = {"x": torch.zeros(1, 1, HEIGHT, WIDTH, dtype=torch.uint8)}
    session = PortableSession(save_module(tmp_path / "m.mlpackage", Widened(), example, **options))
    assert session.inputs["x"].dtype == "uint8"
    picture = _random_picture(rng, "GRAYSCALE")
    np.testing.assert_array_equal(session.predict({"x": picture})["y"][0, 0], np.asarray(picture) / 2)


def test_random_inputs_are_pixels(color):
    session = PortableSession(color)
    numbers = random_arrays(session.inputs, 3)["x"]
    assert numbers.shape == (1, 3, HEIGHT, WIDTH)
    assert numbers.max() > 200
    assert np.isfinite(session.predict({"x": numbers})["y"]).all()


def test_layouts_of_input_and_output_may_differ(tmp_path, rng):
    session = PortableSession(_save(tmp_path / "m.mlpackage", Half(), "RGB", output="BGR"))
    picture = _random_picture(rng, "RGB")
    result = np.asarray(session.predict({"x": picture})["y"])
    # The program leaves the channels as they are: its first is red on the way in and blue on the way out.
    np.testing.assert_array_equal(result[..., 2::-1], np.floor(np.asarray(picture) / 2 + 0.5))


def test_grey_in_half_precision_is_rounded_before_a_program_of_float32(tmp_path):
    """Core ML takes the pixels in fp16, whatever the program widens them to."""
    package = _save(tmp_path / "m.mlpackage", Half(), "GRAYSCALE")
    edit(package, lambda spec, block: setattr(spec.description.input[0].type.imageType, "colorSpace", 40))
    picture = Image.new("F", (WIDTH, HEIGHT), 0.1)
    result = PortableSession(package).predict({"x": picture})["y"]
    np.testing.assert_array_equal(result, np.full((1, 1, HEIGHT, WIDTH), np.float32(np.float16(0.1)) / 2))


def test_numbers_beyond_eight_bits_are_bounded(tmp_path):
    class Stretch(torch.nn.Module):
        def forward(self, x):
            return (x - 100) * 4

    session = PortableSession(_save(tmp_path / "m.mlpackage", Stretch(), "GRAYSCALE", output="GRAYSCALE"))
    given = np.zeros((1, 1, HEIGHT, WIDTH), np.uint8)
    given[0, 0, 0, :4] = [0, 100, 110, 255]
    result = np.asarray(session.predict({"x": given})["y"])
    assert result[0, :4].tolist() == [0, 0, 40, 255]


def test_what_is_no_number_becomes_a_pixel(tmp_path):
    class Broken(torch.nn.Module):
        def forward(self, x):
            return torch.log(x - 1) * 100

    session = PortableSession(_save(tmp_path / "m.mlpackage", Broken(), "GRAYSCALE", output="GRAYSCALE"))
    given = np.full((1, 1, HEIGHT, WIDTH), 2, np.uint8)
    given[0, 0, 0, :2] = [0, 1]  # log(-1) is NaN, log(0) is -infinity
    assert not np.asarray(session.predict({"x": given})["y"]).any()


def test_sizes_that_are_enumerated(tmp_path, rng):
    shape = ct.EnumeratedShapes([(1, 3, HEIGHT, WIDTH), (1, 3, 8, 4)], default=(1, 3, HEIGHT, WIDTH))
    session = PortableSession(_save(tmp_path / "m.mlpackage", Half(), "RGB", shape=shape, output="RGB"))
    for height, width in ((HEIGHT, WIDTH), (8, 4)):
        picture = _random_picture(rng, "RGB", height, width)
        result = session.predict({"x": picture})["y"]
        np.testing.assert_array_equal(np.asarray(result)[..., :3], np.floor(np.asarray(picture) / 2 + 0.5))
    with pytest.raises(InputError, match=r"one of \(1, 3, 5, 7\), \(1, 3, 8, 4\) and got \(1, 3, 4, 8\)"):
        session.predict({"x": _random_picture(rng, "RGB", 4, 8)})


def test_sizes_in_a_range(tmp_path, rng):
    shape = ct.Shape((1, 3, ct.RangeDim(4, 9, default=HEIGHT), ct.RangeDim(2, 30, default=WIDTH)))
    session = PortableSession(_save(tmp_path / "m.mlpackage", Half(), "RGB", shape=shape, output="RGB"))
    assert session.inputs["x"].shape == (1, 3, HEIGHT, WIDTH)
    assert session.outputs["y"].shape == ()
    picture = _random_picture(rng, "RGB", 9, 2)
    assert session.predict({"x": picture})["y"].size == (2, 9)
    for height, width in ((10, 7), (3, 7), (5, 31)):
        with pytest.raises(InputError, match=r"takes shape \(1, 3, 4\.\.9, 2\.\.30\) and got"):
            session.predict({"x": _random_picture(rng, "RGB", height, width)})


@pytest.fixture(scope="module")
def color(tmp_path_factory):
    return _save(tmp_path_factory.mktemp("images") / "m.mlpackage", Mix("RGB"), "RGB")


@pytest.mark.parametrize("size", [(WIDTH, HEIGHT + 1), (HEIGHT, WIDTH), (1, 1)])
def test_a_picture_of_another_size_is_refused(color, size):
    says = rf"input 'x' takes shape \(1, 3, 5, 7\) and got \(1, 3, {size[1]}, {size[0]}\)"
    with pytest.raises(InputError, match=says):
        PortableSession(color).predict({"x": Image.new("RGB", size)})


@pytest.mark.parametrize("mode", ["RGBA", "L", "P", "F", "1", "CMYK"])
def test_a_picture_of_another_mode_is_refused_as_by_core_ml(color, mode):
    with pytest.raises(InputError, match=rf"takes PIL images of mode 'RGB'; this one has mode '{mode}'.*convert"):
        PortableSession(color).predict({"x": Image.new(mode, (WIDTH, HEIGHT))})


@pytest.mark.parametrize("number", [-1.0, 256.0, 0.5, np.nan, np.inf])
def test_an_array_that_eight_bits_do_not_hold_is_refused(color, number):
    given = np.zeros((1, 3, HEIGHT, WIDTH))
    given[0, 1, 2, 3] = number
    with pytest.raises(InputError, match="whole numbers from 0 to 255"):
        PortableSession(color).predict({"x": given})


@pytest.mark.parametrize(
    "given", [np.zeros((HEIGHT, WIDTH, 3), np.uint8), np.zeros((1, 1, HEIGHT, WIDTH)), 3, "a.png"]
)
def test_what_is_no_image_is_refused(color, given):
    with pytest.raises(InputError, match="input 'x'"):
        PortableSession(color).predict({"x": given})


def test_rows_of_images_are_run_one_by_one(color):
    session = PortableSession(color)
    assert session.with_rows(8) is session


def test_coremltools_own_model_takes_and_gives_pictures(tmp_path, rng):
    package = _save(tmp_path / "m.mlpackage", Half(), "BGR", output="BGR")
    with enable_predict():
        model = ct.models.MLModel(str(package))
    picture = _random_picture(rng, "BGR")
    result = model.predict({"x": picture})["y"]
    assert result.mode == "RGBA"
    np.testing.assert_array_equal(np.asarray(result)[..., :3], np.floor(np.asarray(picture) / 2 + 0.5))
    other = _random_picture(rng, "BGR")
    batch = [np.asarray(each["y"])[..., :3] for each in model.predict([{"x": picture}, {"x": other}])]
    np.testing.assert_array_equal(batch, [np.floor(np.asarray(each) / 2 + 0.5) for each in (picture, other)])
    with pytest.raises(TypeError, match="mode=='RGB'"):
        model.predict({"x": picture.convert("L")})
    with pytest.raises(RuntimeError, match="takes shape"):
        model.predict({"x": picture.resize((3, 3))})


@pytest.mark.parametrize("layout", LAYOUTS)
def test_core_ml_gets_a_picture_whatever_was_given(tmp_path, rng, layout):
    """The session on Core ML hands on what coremltools' model takes: here the portable runtime in its place."""
    package = _save(tmp_path / "m.mlpackage", Half(), layout, output=layout)
    seen = []

    def load(path, units, function):
        with enable_predict():
            model = ct.models.MLModel(path)
        original = model.predict
        model.predict = lambda values: seen.append(values["x"]) or original(values)
        return model

    session = CoreMLSession(package, load=load)
    assert session.outputs == PortableSession(package).outputs
    picture = _random_picture(rng, layout)
    result = session.predict({"x": picture})["y"]
    array = np.asarray(picture).reshape(HEIGHT, WIDTH, -1).transpose(2, 0, 1)[None]
    again = session.predict({"x": array[:, ::-1] if layout == "BGR" else array})["y"]
    assert seen[0] is picture
    assert seen[1].mode == picture.mode
    tolerance = 1e-3 if layout == "GRAYSCALE_FLOAT16" else 0
    np.testing.assert_allclose(np.asarray(seen[1]), np.asarray(picture), rtol=tolerance)
    np.testing.assert_array_equal(np.asarray(again), np.asarray(result))
    with pytest.raises(InputError, match="takes shape"):
        session.predict({"x": picture.resize((1, 2))})


@pytest.mark.parametrize("field", ["height", "width"])
@pytest.mark.parametrize("number", [-1, 2**40, 2**62])
def test_a_described_size_that_is_impossible(tmp_path, field, number):
    package = _save(tmp_path / "m.mlpackage", Mix("RGB"), "RGB")
    edit(package, lambda spec, block: setattr(spec.description.input[0].type.imageType, field, number))
    refused(package, "'x' of")


def test_a_colour_space_that_is_unknown(tmp_path):
    package = _save(tmp_path / "m.mlpackage", Mix("RGB"), "RGB")
    edit(package, lambda spec, block: setattr(spec.description.input[0].type.imageType, "colorSpace", 0))
    refused(package, "'x' has the colour space 0, which is unknown")


@pytest.mark.parametrize(("field", "number"), [("height", HEIGHT + 1), ("colorSpace", 10)])
def test_a_description_that_is_not_that_of_the_program(tmp_path, field, number):
    package = _save(tmp_path / "m.mlpackage", Mix("RGB"), "RGB")
    edit(package, lambda spec, block: setattr(spec.description.input[0].type.imageType, field, number))
    with pytest.raises(PackageError, match=r"in the description and float32 .* in the program"):
        PortableSession(package)


def test_an_output_of_another_shape_than_that_of_an_image(tmp_path, rng):
    package = _save(tmp_path / "m.mlpackage", Half(), "RGB", output="RGB")
    edit(package, lambda spec, block: setattr(spec.description.output[0].type.imageType, "colorSpace", 10))
    with pytest.raises(ExecutionError, match=r"output 'y': an image of the layout GRAYSCALE of shape \(1, 3, 5, 7\)"):
        PortableSession(package).predict({"x": _random_picture(rng, "RGB")})


def test_pil_is_not_imported_where_no_picture_is_made(color):
    code = (
        "import sys; sys.modules['PIL'] = None\n"
        "import numpy as np\n"
        "from optimum_ane.runtimes.portable import PortableSession\n"
        f"session = PortableSession({str(color)!r})\n"
        f"print(session.predict({{'x': np.ones((1, 3, {HEIGHT}, {WIDTH}))}})['y'].sum())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) == HEIGHT * WIDTH * (111 + 0.75)


def test_an_image_without_pil_says_what_to_install(tmp_path, rng, monkeypatch):
    session = PortableSession(_save(tmp_path / "m.mlpackage", Half(), "GRAYSCALE", output="GRAYSCALE"))
    given = np.zeros((1, 1, HEIGHT, WIDTH), np.uint8)
    monkeypatch.setitem(sys.modules, "PIL", None)
    from optimum_ane.errors import RuntimeUnavailableError

    with pytest.raises(RuntimeUnavailableError, match="pip install pillow"):
        session.predict({"x": given})
