import gzip
import io
import logging

import numpy as np
import pytest
from images import random_images
from PIL import Image

from hf_eddpm.modalities.image.data import load_images

SIZE = 16


@pytest.fixture
def folder(tmp_path):
    """Two classes of three colour images, one grey, and a table of attributes."""
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for row, image in enumerate(random_images(3, seed=label, channels=3, size=SIZE)):
            image.save(tmp_path / "photos" / name / f"{row}.png")
    random_images(1, size=SIZE)[0].save(tmp_path / "photos" / "dog" / "3.png")
    (tmp_path / "photos" / "metadata.csv").write_text("file_name,age,note\ncat/0.png,3,old\ndog/1.png,7.5,\n")
    return tmp_path / "photos"


def _idx(array):
    header = b"\x00\x00\x08" + bytes([array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return header + array.astype(np.uint8).tobytes()


def test_the_digits_are_there_without_a_file():
    data = load_images("digits")
    assert data.images.shape == (1797, 8, 8, 1) and data.images.max() == 255
    assert data.labels("label", 10)[:3].tolist() == [0, 1, 2]
    assert data.class_names["label"][3] == "3"


def test_a_folder_gives_images_classes_and_attributes(folder):
    data = load_images(str(folder))
    assert data.images.shape == (7, SIZE, SIZE, 3)
    assert np.array_equal(data.images[1], np.asarray(Image.open(folder / "cat" / "1.png")))
    assert data.class_names["label"] == ["cat", "dog"]
    assert data.labels("label", 2).tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert np.array_equal(data.attribute("age"), [3, *[np.nan] * 3, 7.5, *[np.nan] * 2], equal_nan=True)
    assert "note" not in data.attributes  # no numbers
    assert load_images(str(folder), num_channels=1, image_size=8, resize="stretch").images.shape == (7, 8, 8, 1)


def test_a_damaged_image_stops_or_is_counted_and_named(folder, caplog):
    broken = folder / "cat" / "1.png"
    broken.write_bytes(broken.read_bytes()[:50])
    (folder / "dog" / "0.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=f"{str(broken)!r} is damaged .*`on_damaged` 'skip'"):
        load_images(str(folder))
    with caplog.at_level(logging.WARNING, "image_data"):
        logging.getLogger("image_data").propagate = True
        data = load_images(str(folder), on_damaged="skip")
    damaged = [repr(str(folder / name)) for name in ("cat/1.png", "dog/0.png")]  # of several folders, which one
    assert len(data) == 5 and data.damaged == damaged
    assert f"2 damaged images of {str(folder)!r} were left out: {', '.join(damaged)}" in caplog.text
    for path in folder.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="holds no images that can be read"):
        load_images(str(folder), on_damaged="skip")


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_idx_files_are_read_with_the_labels_beside_them(tmp_path, ending):
    images = np.random.default_rng(0).integers(0, 256, (5, SIZE, SIZE))
    opener = gzip.open if ending else open
    for name, array in (("images-idx3", images), ("labels-idx1", np.arange(5))):
        with opener(tmp_path / f"train-{name}-ubyte{ending}", "wb") as file:
            file.write(_idx(array))
    path = tmp_path / f"train-images-idx3-ubyte{ending}"
    data = load_images(str(path))
    assert np.array_equal(data.images[..., 0], images) and data.labels("label").tolist() == [0, 1, 2, 3, 4]
    colour = load_images(str(path), num_channels=3)
    assert colour.images.shape == (5, SIZE, SIZE, 3) and np.array_equal(colour.images[..., 1], images)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ValueError, match="is damaged"):
        load_images(str(path))


def test_npz_files_hold_images_or_packed_bits_and_factors(tmp_path):
    bits = np.random.default_rng(0).integers(0, 2, (4, SIZE, SIZE)).astype(np.uint8)
    packed = np.packbits(bits.reshape(4, -1), axis=1)
    factors = np.arange(8).reshape(4, 2)
    np.savez(tmp_path / "a.npz", imgs_packed=packed, factors=factors, factor_names=np.array(["size", "place"]))
    data = load_images(str(tmp_path / "a.npz"))
    assert np.array_equal(data.images[..., 0], bits * 255) and data.attribute("place").tolist() == [1, 3, 5, 7]
    np.savez(tmp_path / "b.npz", images=bits, labels=np.arange(4))
    assert load_images(str(tmp_path / "b.npz")).labels("label").tolist() == [0, 1, 2, 3]
    for bad, message in (({"pictures": bits}, "must hold `images`"), ({"images": bits / 2}, "must be uint8")):
        np.savez(tmp_path / "bad.npz", **bad)
        with pytest.raises(ValueError, match=message):
            load_images(str(tmp_path / "bad.npz"))


def test_parquet_files_give_images_attributes_and_class_names(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "gender": datasets.ClassLabel(names=["male", "female"]),
            "age": datasets.Value("int32"),
        }
    )
    images = random_images(3, channels=3, size=SIZE)
    rows = {"image": images, "gender": [0, 1, 1], "age": [3, 40, 90]}
    datasets.Dataset.from_dict(rows, features).to_parquet(tmp_path / "a.parquet")
    data = load_images(str(tmp_path / "a.parquet"))
    assert [image.tobytes() for image in data.images] == [image.tobytes() for image in images]
    assert data.class_names == {"gender": ["male", "female"]} and data.attribute("age").tolist() == [3, 40, 90]
    with pytest.raises(ValueError, match="`image_column` 'picture' is not in"):
        load_images(str(tmp_path / "a.parquet"), image_column="picture")


def test_several_sources_are_joined_in_order(folder, tmp_path):
    images = np.zeros((2, SIZE, SIZE, 3), np.uint8)
    np.savez(tmp_path / "more.npz", images=images, factors=np.array([[5], [6]]), factor_names=["age"])
    data = load_images([str(folder), str(tmp_path / "more.npz")])
    assert len(data) == 9 and data.attribute("age")[-2:].tolist() == [5, 6] and "label" not in data.attributes
    np.savez(tmp_path / "more.npz", images=images, labels=np.array([0, 1]))
    with pytest.raises(ValueError, match=r"`label` has names in one source \(cat, dog\) and numbers in another"):
        load_images([str(folder), str(tmp_path / "more.npz")])


def _classes(folder, **brightness):
    """A folder of classes, each with one image of its own grey level."""
    for name, level in brightness.items():
        (folder / name).mkdir(parents=True)
        Image.new("L", (8, 8), level).save(folder / name / "0.png")
    return str(folder)


def _names(data):
    """Grey level -> name of the class, and the names in order."""
    levels = data.images[:, 0, 0, 0].tolist()
    names = data.class_names["label"]
    return {level: names[label] for level, label in zip(levels, data.labels("label"), strict=True)}, names


def test_classes_of_several_sources_are_joined_by_name(tmp_path):
    first = _classes(tmp_path / "first", cat=10, dog=20)
    second = _classes(tmp_path / "second", bird=30, dog=40)
    assert _names(load_images([first, second])) == (
        {10: "cat", 20: "dog", 30: "bird", 40: "dog"},
        ["cat", "dog", "bird"],
    )
    np.savez(tmp_path / "numbers.npz", images=np.full((1, 8, 8), 50, np.uint8), labels=np.array([1]))
    digits = load_images(["digits", str(tmp_path / "numbers.npz")])  # their names are the numbers
    assert digits.labels("label")[-1] == 1 and digits.class_names["label"][1] == "1"


def test_held_out_classes_are_those_of_the_training_data_by_name(tmp_path, caplog):
    train = load_images(_classes(tmp_path / "train", ant=10, cat=20, dog=30))
    dev = load_images(_classes(tmp_path / "dev", cat=40, dog=50))
    assert dev.labels("label").tolist() == [0, 1]
    joined = dev.with_classes_of(train, "label")
    assert joined.labels("label").tolist() == [1, 2]
    assert _names(joined) == ({40: "cat", 50: "dog"}, ["ant", "cat", "dog"])
    fewer = load_images(_classes(tmp_path / "fewer", ant=60, emu=70))
    with pytest.raises(ValueError, match=r"`label` has the class 'emu' in .*fewer.*, which the training data lack"):
        fewer.with_classes_of(train, "label")
    with caplog.at_level(logging.WARNING):
        left = fewer.with_classes_of(train)
    assert "label" not in left.attributes and "'emu'" in caplog.text and len(left) == 2


@pytest.mark.parametrize("ending", ["gif", "webp", "png", "tif"])
def test_of_files_with_several_images_the_first_is_read_and_the_rest_counted(tmp_path, ending, caplog):
    for name, count in (("a", 3), ("b", 1), ("c", 2)):
        frames = [Image.new("L", (8, 8), 40 * (frame + 1)).convert("RGB") for frame in range(count)]
        extra = {"lossless": True} if ending == "webp" else {}
        frames[0].save(tmp_path / f"{name}.{ending}", save_all=True, append_images=frames[1:], **extra)
    with caplog.at_level(logging.WARNING):
        data = load_images(str(tmp_path))
    assert data.images.shape[0] == 3 and (data.images == 40).all()
    assert data.num_unread == 3
    (record,) = caplog.records
    assert "2 files of" in record.message and "the first of each was read, 3 were not" in record.message


def test_equal_images_with_different_values_stay_separate_rows(tmp_path):
    image = random_images(1)[0]
    for name in ("a", "b"):
        image.save(tmp_path / f"{name}.png")
    (tmp_path / "metadata.csv").write_text("file_name,value\na.png,1\nb.png,2\n")
    data = load_images(str(tmp_path))
    assert len(data) == 2 and data.attribute("value").tolist() == [1, 2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file_name,age,age\na.png,1,2\n", "several columns 'age'"),
        ("file_name,age\na.png,1\na.png,2\n", "several rows for the image 'a.png'"),
        ("file_name,age\na.png,1\n./a.png,2\n", "several rows for the image 'a.png'"),
        ("file_name,age\na.png,1,2\n", "more fields than the header"),
        ('file_name,age\n"a.png" x,1\n', "malformed"),
        ("name,age\na.png,1\n", "must have a column 'file_name'"),
        ("file_name,age\nb.png,1\n", "no images of the folder"),
        ("file_name,age\na.png,1\n".encode("utf-16"), "UTF-16"),
        ("\ufefffile_name,age\na.png,1\n", None),
    ],
)
def test_a_table_of_images_says_one_thing_of_each(tmp_path, content, message):
    random_images(1)[0].save(tmp_path / "a.png")
    content = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "metadata.csv").write_bytes(content)
    if message is None:
        assert load_images(str(tmp_path)).attribute("age").tolist() == [1]
        return
    with pytest.raises(ValueError, match=message):
        load_images(str(tmp_path))


def test_subsets_keep_images_and_attributes_together():
    data = load_images("digits")
    some = data.sample(50, seed=3)
    assert len(some) == 50 and len(data.sample(5000, 0)) == 1797
    known = {image.tobytes(): label for image, label in zip(data.images, data.labels("label"), strict=True)}
    assert [known[image.tobytes()] for image in some.images] == some.labels("label").tolist()
    with pytest.raises(ValueError, match="`num_images`"):
        data.sample(0, 0)


def test_unknown_attributes_and_labels_out_of_range_are_refused(folder):
    data = load_images(str(folder))
    with pytest.raises(ValueError, match=r"`attribute` must be one of \['age', 'label'\], got 'smile'"):
        data.attribute("smile")
    with pytest.raises(ValueError, match=r"`label` must hold class labels .*in \[0, 1\)\), got 1 at image 3"):
        data.labels("label", 1)
    with pytest.raises(ValueError, match="`age` must hold class labels .*got nan at image 1"):
        data.labels("age")


def test_sources_without_images_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no image")
    (tmp_path / "foreign").mkdir()
    for name in ("a.heic", "b.mp4", "c.txt"):
        (tmp_path / "foreign" / name).write_bytes(b"no image")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "x.parquet").write_bytes(b"nothing")
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for size in (8, 16):
        random_images(1, size=size)[0].save(mixed / f"{size}.png")
    for source, error, message in (
        ("empty", ValueError, "holds no images: none of its files ends in .png, .jpg or .* that Pillow reads[.]$"),
        ("foreign", ValueError, "holds no images: .* that Pillow reads; it holds 'a.heic', 'b.mp4'"),
        ("notes.txt", ValueError, "unknown ending"),
        ("missing.npz", FileNotFoundError, "No such file"),
        ("x.parquet", ValueError, "damaged or not a parquet file"),
        ("mixed", ValueError, "mixed/8.png': .*must hold images of 16 x 16, got 8 x 8"),
    ):
        with pytest.raises(error, match=message):
            load_images(str(tmp_path / source))
    with pytest.raises(ValueError, match="`split` is required"):
        load_images("user/images")
    with pytest.raises(ValueError, match="`on_damaged`"):
        load_images("digits", on_damaged="ignore")
    with pytest.raises(ValueError, match="`source`"):
        load_images([])


def test_transparent_images_in_a_folder_show_the_background(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(buffer, "png")
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    assert load_images(str(tmp_path), background=0).images.max() == 0
    assert load_images(str(tmp_path)).images.min() == 255


def test_classes_without_images_are_named(folder, caplog):
    (folder / "empty").mkdir()
    with caplog.at_level(logging.WARNING, "image_data"):
        logging.getLogger("image_data").propagate = True
        data = load_images(str(folder))
    assert data.class_names["label"] == ["cat", "dog"] and "without images are no classes: 'empty'" in caplog.text
    for path in (folder / "dog").glob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(ValueError, match="class 'dog' .* has no image that can be read"):
        load_images(str(folder), on_damaged="skip")


@pytest.mark.parametrize("ending", ["png", "jpg", "gif", "webp", "bmp", "tif"])
def test_whatever_is_damaged_is_named_or_skipped(tmp_path, ending, capfd):
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8))
    (tmp_path / "good").mkdir()
    picture.save(tmp_path / "good" / f"a.{ending}")
    whole = (tmp_path / "good" / f"a.{ending}").read_bytes()
    for number in range(40):
        content = bytearray(whole)
        for place in rng.integers(0, min(len(content), 60), 2):
            content[place] = rng.integers(256)
        broken = tmp_path / "good" / f"b{number}.{ending}"
        broken.write_bytes(content if number % 4 else content[: rng.integers(len(content))])
        data = load_images(str(tmp_path / "good"), image_size=12, resize="stretch", on_damaged="skip")
        assert len(data) == 2 - len(data.damaged)
        if data.damaged:
            with pytest.raises(ValueError, match=f"/good/b{number}.{ending}' is damaged"):
                load_images(str(tmp_path / "good"), image_size=12, resize="stretch")
        broken.unlink()


def test_every_ending_that_pillow_reads_is_an_image_and_other_files_are_mentioned_once(tmp_path, caplog):
    picture = random_images(1, channels=3, size=SIZE)[0]
    for name in ("a.png", "b.tga", "c.JPG", "d.jfif", "e.qoi", "f.dib"):
        picture.save(tmp_path / name)
    unread = ["g.heic", *(f"h{number}.mp4" for number in range(6)), "i.pdf"]
    for name in [*unread, "j.txt", "k.json", "l.xml", "Thumbs.db", ".hidden.heic"]:
        (tmp_path / name).write_bytes(b"no image")
    with caplog.at_level(logging.WARNING):
        data = load_images(str(tmp_path))
    assert len(data) == 6 and np.array_equal(data.images[1], data.images[0])
    (record,) = caplog.records
    assert "8 files of" in record.message and "'g.heic', 'h0.mp4', 'h1.mp4', 'h2.mp4', 'h3.mp4', ..." in record.message
    for name in unread:
        (tmp_path / name).unlink()
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        load_images(str(tmp_path))
    assert not caplog.records


def test_a_class_that_holds_only_other_files_is_named(folder, caplog):
    for name in ("fox", "owl/young"):
        (folder / name).mkdir(parents=True)
        (folder / name / "a.heic").write_bytes(b"no image")
    (folder / "elk").mkdir()
    (folder / "elk" / "notes.txt").write_text("none yet")
    with caplog.at_level(logging.WARNING):
        data = load_images(str(folder))
    assert data.class_names["label"] == ["cat", "dog"]
    assert "without images are no classes: 'elk', 'fox', 'owl'" in caplog.text
    assert "'fox/a.heic', 'owl/young/a.heic'" in caplog.text


def test_missing_images_of_a_table_are_named_or_skipped(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    file = io.BytesIO()
    random_images(1)[0].save(file, "png")
    png = file.getvalue()
    whole = {"bytes": png, "path": None}
    path = str(tmp_path / "a.parquet")
    for images, what in (
        ([png, None, png], "its value is missing"),
        ([whole, {"bytes": None, "path": None}, None, whole], "its value is missing"),
        ([[1, 2], [3]], r"its value is of type list"),
        ([1.5], r"its value is of type float"),
    ):
        parquet.write_table(pyarrow.table({"image": images, "age": list(range(len(images)))}), path)
        first = next(row for row, image in enumerate(images) if image not in (png, whole))
        with pytest.raises(ValueError, match=rf"image {first} of '{path}' is damaged or no image \({what}\)"):
            load_images(path)
        good = [row for row, image in enumerate(images) if image in (png, whole)]
        if good:
            data = load_images(path, on_damaged="skip")
            assert data.attribute("age").tolist() == good and len(data.damaged) == len(images) - len(good)


def test_a_table_that_is_damaged_within_is_named(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"image": [bytes(range(256))] * 50}), path, use_dictionary=False)
    content = bytearray(path.read_bytes())
    content[4:60] = b"\xff" * 56
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{str(path)!r} is damaged"):
        load_images(str(path))


def test_dark_images_of_16_bits_stay_dark_beside_bright_ones(tmp_path):
    for name, level in (("a.png", 51400), ("b.png", 200), ("c.pgm", 200), ("d.pgm", 51400)):
        Image.fromarray(np.full((SIZE, SIZE), level, np.uint16)).save(tmp_path / name)
    data = load_images(str(tmp_path))
    assert data.images.shape == (4, SIZE, SIZE, 1) and data.images[:, 0, 0, 0].tolist() == [200, 1, 1, 200]
