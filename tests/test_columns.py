"""Columns of data in other clothes than a list: pandas, NumPy, `datasets`, tuples."""

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SENTENCES
from datasets import Dataset
from images import random_images, tiny_image_pipe
from proteins import PROTEINS, tiny_protein_pipe

from hf_eddpm import model_for_data
from hf_eddpm.modalities.protein.data import load_proteins
from hf_eddpm.modalities.text.data import load_text


def _objects(items):
    column = np.empty(len(items), dtype=object)
    for row, item in enumerate(items):
        column[row] = item
    return column


# An index that does not start at 0: rows are meant, not labels.
COLUMNS = {
    "tuple": tuple,
    "pandas": lambda items: pd.Series(list(items), index=range(7, 7 + len(items))),
    "datasets": lambda items: Dataset.from_dict({"column": list(items)})["column"],
    "numpy": lambda items: np.array(items) if isinstance(items[0], (str, int)) else _objects(items),
    "numpy objects": _objects,
}
columns = pytest.mark.parametrize("column", COLUMNS.values(), ids=COLUMNS)


@pytest.fixture(params=["text", "protein", "image"])
def modality(request, make_pipe):
    """A pipeline and data for it."""
    if request.param == "text":
        return make_pipe(), SENTENCES[:3]
    return (tiny_protein_pipe(), PROTEINS[:3]) if request.param == "protein" else (tiny_image_pipe(), random_images(3))


@columns
def test_every_column_is_taken_for_the_list_it_holds(column, modality):
    pipe, items = modality
    wanted = pipe.encode(items).latents
    data = column(items)
    assert torch.equal(pipe.encode(data).latents, wanted)
    names = pipe.model.encoder.input_names
    assert torch.equal(pipe.processor(data)[names[0]], pipe.processor(items)[names[0]])
    drawn = {} if pipe.decoder_scheduler is None else {"num_decoder_steps": 2}
    assert len(pipe.reconstruct(data, **drawn)) == 3
    scores = [pipe.score(each, generator=torch.Generator().manual_seed(0)).bound for each in (data, items)]
    assert torch.equal(*scores)
    assert torch.equal(pipe.invert(data, num_inference_steps=2), pipe.invert(items, num_inference_steps=2))
    assert len(pipe.interpolate(data, data, num_steps=2, num_inference_steps=2, **drawn)) == 3
    assert len(pipe.edit(data, torch.zeros_like(wanted[0]), **drawn)) == 3
    assert torch.equal(pipe.direction(data, data), pipe.direction(items, items))
    if pipe.model.property_head is not None:
        assert torch.equal(pipe.predict(data), pipe.predict(items))


@columns
def test_classes_properties_and_sources_may_be_columns_too(column, tmp_path):
    pipe = tiny_image_pipe(num_classes=4)
    arguments = {"num_inference_steps": 2, "num_decoder_steps": 2, "guidance_scale": 2.0}
    draws = [
        pipe(3, class_labels=labels, generator=torch.Generator().manual_seed(0), **arguments).latents
        for labels in ([1, 2, 3], column([1, 2, 3]))
    ]
    assert torch.equal(*draws)
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    (tmp_path / "a.csv").write_text("sequence,x\nACD,1\nACD,2\n")
    assert load_text(column([str(tmp_path / "a.txt")])).sentences == ["one", "two"]
    proteins = load_proteins(str(tmp_path / "a.csv"), property_columns=column(["x"]))
    assert proteins.sequences == ["ACD", "ACD"] and proteins.properties.tolist() == [[1], [2]]
    model, _ = model_for_data(column(SENTENCES), class_labels=column([0, 1] * 4))
    assert model.config.num_classes == 2


def test_properties_may_be_a_table():
    table = pd.DataFrame({"a": [1.0, 2, 3, 4, None], "b": [1.0, 2, 3, 4, 5]}, index=range(3, 8))
    model, _ = model_for_data(pd.Series(PROTEINS), "protein", properties=table)
    assert model.property_head.target_mean.tolist() == [2.5, 3.0]
