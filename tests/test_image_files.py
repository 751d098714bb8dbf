"""Files of arrays, npz and idx, that are damaged or hold something else: each is named with what is wrong."""

import gzip
import io

import numpy as np
import pytest

from hf_eddpm.modalities.image.data import load_images

SIZE = 16
BITS = np.zeros((4, SIZE * SIZE // 8), np.uint8)
GREY = np.zeros((4, SIZE, SIZE), np.uint8)


def _as_idx(array):
    return (
        b"\x00\x00\x08"
        + bytes([array.ndim])
        + np.array(array.shape, ">u4").tobytes()
        + array.astype(np.uint8).tobytes()
    )


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"images": GREY, "labels": np.array(["cat", "dog", "cat", "dog"])},
            "`labels` of '{}' must be numbers, got <U3",
        ),
        ({"images": GREY, "labels": np.array([{}] * 4)}, "`labels` of '{}' is damaged, or an array of Python objects"),
        ({"images": np.array([None] * 4)}, "`images` of '{}' is damaged, or an array of Python objects"),
        ({"images": GREY, "labels": np.eye(4)}, r"`labels` of '{}' must be \(num,\) for 4 images, got \(4, 4\)"),
        ({"images": GREY, "labels": np.arange(3)}, r"`labels` of '{}' must be \(num,\) for 4 images, got \(3,\)"),
        ({"images": GREY, "factors": np.arange(4)}, r"`factors` of '{}' must be \(num, num_factors\) .*got \(4,\)"),
        ({"images": GREY, "factors": np.array([["a"]] * 4)}, "`factors` of '{}' must be numbers"),
        (
            {"images": GREY, "factors": np.eye(4), "factor_names": np.array(["a", "b"])},
            "`factor_names` .*must be 4",
        ),
        ({"images": GREY, "factors": np.eye(4)[:, :2], "factor_names": np.array(["a", "a"])}, "2 different names"),
        ({"imgs_packed": BITS[0]}, r"`imgs_packed` of '{}' must be uint8 .*got uint8 \(32,\)"),
        ({"imgs_packed": BITS.astype(int)}, r"`imgs_packed` of '{}' must be uint8 .*got int64"),
        ({"imgs_packed": BITS[:, :7]}, "the bits of square images"),
        ({"imgs_packed": BITS[:0]}, r"'{}' holds no images: its array has the shape \(0, 16, 16, 1\)"),
        ({"images": GREY[:0]}, "'{}' holds no images"),
        ({"images": GREY[:, :0]}, "'{}' holds no images"),
    ],
)
def test_arrays_that_are_no_images_or_no_labels_are_named_with_their_file(tmp_path, arrays, message):
    path = tmp_path / "a.npz"
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=message.format(path)):
        load_images(str(path))


def test_damaged_files_of_arrays_are_named(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, images=np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE), dtype=np.uint8))
    whole = path.read_bytes()
    damaged = [b"", b"junk", whole[:30], whole[: len(whole) // 2], whole[:-10]]
    for place in range(0, len(whole), 7):
        damaged.append(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
    array = io.BytesIO()
    np.save(array, GREY)
    damaged.append(array.getvalue())
    refused = 0
    for content in damaged:
        path.write_bytes(content)
        try:
            data = load_images(str(path))
        except ValueError as error:
            refused += 1
            assert str(path) in str(error) and "allow_pickle" not in str(error)
        else:  # of the header's spare fields not all matter
            assert data.images.shape == (4, SIZE, SIZE, 1)
    assert refused > 6
    with pytest.raises(ValueError, match=f"'{path}' is damaged or no npz file"):
        load_images(str(path))


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_damaged_idx_files_are_named(tmp_path, ending):
    path = tmp_path / f"train-images-idx3-ubyte{ending}"
    whole = _as_idx(np.random.default_rng(0).integers(0, 256, (5, SIZE, SIZE)))
    damaged = [b"", whole[:3], whole[:4], whole[:10], whole[:15], whole[:16], whole[:-1], whole + b"1", b"\0\0\x08\0"]
    contents = [gzip.compress(content) if ending else content for content in damaged]
    if ending:
        packed = gzip.compress(whole)
        contents += [packed[:5], packed[:-4], packed[: len(packed) // 2], b"junk", packed[:20] + b"\xff" + packed[21:]]
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"{str(path)!r} is damaged"):
            load_images(str(path))
    for array, message in ((np.zeros((0, SIZE, SIZE)), "holds no images"), (np.zeros(5), "must hold images")):
        path.write_bytes(gzip.compress(_as_idx(array)) if ending else _as_idx(array))
        with pytest.raises(ValueError, match=f"{str(path)!r} {message}"):
            load_images(str(path))
    path.write_bytes(gzip.compress(whole) if ending else whole)
    labels = tmp_path / f"train-labels-idx1-ubyte{ending}"
    labels.write_bytes(gzip.compress(_as_idx(np.zeros((5, 2)))) if ending else _as_idx(np.zeros((5, 2))))
    with pytest.raises(ValueError, match=f"{str(labels)!r} must have one label for each of 5 images"):
        load_images(str(path))
