import io
import struct
import zlib

import datasets
import numpy as np
import pytest
from PIL import Image
from stand_ins import save_images

from optimum_ane.errors import DatasetError
from optimum_ane.evaluation import images
from optimum_ane.evaluation.datasets import DatasetSpec
from optimum_ane.evaluation.image_files import ImageExamples, open_images


def opened(path, needs_labels=True, **options):
    return open_images(DatasetSpec(str(path), **options), "image-classification", needs_labels=needs_labels)


def numbers_of(found):
    return [found.images.open(row).getpixel((0, 0))[0] for row in range(len(found.images))]


def encoded(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def refusal(data, **place):
    with pytest.raises(DatasetError) as caught:
        images.open_image(data, "photos", **place)
    return str(caught.value)


def test_of_several_classes_each_gives_an_image_in_turn(tmp_path):
    folder = save_images(tmp_path, dog=[1, 2, 3], cat=[4], emu=[5, 6])
    (folder / ".hidden").mkdir()
    (folder / "dog" / "notes.txt").write_text("no image")
    found = opened(folder)
    assert numbers_of(found) == [4, 1, 5, 2, 6, 3]
    assert found.labels.values == ["cat", "dog", "emu", "dog", "emu", "dog"]
    assert numbers_of(opened(folder, max_samples=4)) == [4, 1, 5, 2]


def test_images_without_labels(tmp_path):
    save_images(tmp_path, photos=[3, 1, 2])
    found = opened(tmp_path / "photos", needs_labels=False, max_samples=2)
    assert (numbers_of(found), found.labels) == ([3, 1], None)
    assert numbers_of(opened(tmp_path, needs_labels=False)) == [3, 1, 2]


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda path: None, "holds no folder of images for each class"),
        (lambda path: (path / "cat").mkdir(), "the folder 'cat' of it holds no image"),
        (lambda path: (save_images(path, cat=[1]) / "cat" / "0.png").rename(path / "0.png"), "holds no image"),
        (lambda path: encoded_into(save_images(path, cat=[1]) / "stray.png"), "stray.png stands beside the folders"),
    ],
)
def test_folders_that_are_no_dataset(tmp_path, make, what):
    make(tmp_path)
    with pytest.raises(DatasetError, match=what):
        opened(tmp_path)


def encoded_into(path):
    path.write_bytes(encoded(Image.new("L", (2, 2))))


def test_other_things_than_datasets_of_images(tmp_path):
    with pytest.raises(DatasetError, match="there is no such file or folder"):
        opened(tmp_path / "nowhere" / "x")
    (tmp_path / "rows.csv").write_text("a,b\n")
    with pytest.raises(DatasetError, match=r"images are read from a folder, .* or from a \.parquet file"):
        opened(tmp_path / "rows.csv")
    with pytest.raises(DatasetError, match="text_column says nothing to image-classification"):
        opened(tmp_path, text_column="a")
    with pytest.raises(DatasetError, match="label_column says nothing to a folder"):
        opened(save_images(tmp_path / "some", cat=[1]), label_column="a")


def table_of(rows):
    """As `datasets` holds images and their classes."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    values = {"image": [Image.new("RGB", (3, 3), (number, 0, 0)) for number, _ in rows], "label": [c for _, c in rows]}
    return datasets.Dataset.from_dict(values, features=features)


def test_parquet_as_datasets_writes_it_in_any_order(tmp_path):
    path = tmp_path / "rows.parquet"
    table_of([(10 + index, index % 2) for index in range(25)]).to_parquet(path, batch_size=10)
    found = opened(path)
    assert len(found.images._files._starts) == 3
    assert numbers_of(found) == list(range(10, 35))
    assert [found.images.open(row).getpixel((0, 0))[0] for row in (24, 3, 12)] == [34, 13, 22]
    assert (found.labels.column, found.labels.class_names) == ("label", ("cat", "dog"))
    assert len(opened(path, max_samples=7).images) == 7
    assert len(opened(path, needs_labels=False, label_column="label").images) == 25


def test_parquet_without_labels_and_with_what_is_no_image(tmp_path):
    import pyarrow
    import pyarrow.parquet

    good = encoded(Image.new("RGB", (2, 2), (7, 0, 0)))
    rows = [{"bytes": good, "path": None}, {"bytes": None, "path": "/etc/passwd"}, {"bytes": b"no", "path": "x.png"}]
    pyarrow.parquet.write_table(pyarrow.table({"img": rows, "raw": [good] * 3}), tmp_path / "rows.parquet")
    found = opened(tmp_path / "rows.parquet", needs_labels=False)
    assert (len(found.images), found.labels) == (3, None)
    assert found.images.open(0).size == (2, 2)
    with pytest.raises(DatasetError, match=r"row 2, column img: the row names the file '/etc/passwd' and does not"):
        found.images.open(1)
    with pytest.raises(DatasetError, match=r"rows\.parquet, row 3, column img: no image of a format that is read"):
        found.images.open(2)
    assert opened(tmp_path / "rows.parquet", needs_labels=False, image_column="raw").images.open(2).size == (2, 2)
    with pytest.raises(DatasetError, match=r"no label column is recognised .* name it with label_column"):
        opened(tmp_path / "rows.parquet")


def test_the_hub(monkeypatch, tmp_path):
    table = table_of([(1, 0), (2, 1), (3, 1)])
    monkeypatch.setattr(datasets, "load_dataset", lambda path, name=None, *, split=None: table)
    found = opened("imagenet-1k")
    assert (numbers_of(found), found.labels.values) == ([1, 2, 3], [0, 1, 1])
    assert found.name == "imagenet-1k, split validation"
    # Of a dataset that is a folder, `datasets` holds paths.
    save_images(tmp_path, dog=[9])
    path = str(tmp_path / "dog" / "0.png")
    table = datasets.Dataset.from_dict({"image": [path], "label": [1]}).cast_column("image", datasets.Image())
    assert numbers_of(opened("some/folder")) == [9]
    with pytest.raises(DatasetError, match="column label: the column holds no images"):
        opened("some/folder", image_column="label", needs_labels=False, label_column="image")


def test_an_image_is_turned_as_its_exif_says():
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, 20:] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the row at the top is the right side of what was seen
    turned = np.asarray(images.open_image(encoded(Image.fromarray(pixels), "JPEG", exif=exif), "photos"))
    assert turned.shape == (40, 20, 3)
    assert turned[:10].max() < 60
    assert turned[30:].min() > 200


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_odd_modes_become_rgb(mode):
    image = Image.new(mode, (6, 3)) if mode == "I;16" else Image.new("RGB", (6, 3), (255, 255, 255)).convert(mode)
    found = images.open_image(encoded(image, "TIFF" if mode == "CMYK" else "PNG"), "photos")
    assert (found.mode, found.size) == ("RGB", (6, 3))
    assert found.getpixel((5, 2)) == ((0, 0, 0) if mode == "I;16" else (255, 255, 255))


def png_of_size(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def test_images_that_are_too_large(monkeypatch):
    assert "an image of 10,000 × 9,000 pixels, the limit is 50,000,000" in refusal(png_of_size(10_000, 9_000))
    assert "more than 50,000,000 pixels" in refusal(png_of_size(100_000, 100_000))
    monkeypatch.setattr(images, "MAX_BYTES", 50)
    assert "photos, row 3, column image: the image has" in refusal(
        png_of_size(2, 2) + b" " * 50, row=3, column="image"
    )


def test_damaged_images():
    whole = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)))
    assert "photos: the image cannot be read (OSError" in refusal(whole[: len(whole) // 2])
    assert "no image of a format that is read" in refusal(b"")
    assert "no image of a format" in refusal(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    for place in range(8, 120, 3):  # each gives an image or our own error
        try:
            images.open_image(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :], "photos")
        except DatasetError:
            continue


def test_what_is_scored_has_a_digest_of_the_files_themselves(tmp_path):
    found = opened(save_images(tmp_path, cat=[1, 2], dog=[3]))

    def digest():
        return ImageExamples("photos", "accuracy", None, found.images).digest()

    before = digest()
    assert before == digest()
    Image.new("RGB", (5, 4), (9, 0, 0)).save(tmp_path / "dog" / "0.png")
    assert before != digest()
