"""The app: what its tabs do, as functions; what it refuses, as sentences; the page and the Space made of them."""

import csv
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from images import random_images, tiny_image_pipe
from packaging.requirements import Requirement
from PIL import Image

gr = pytest.importorskip("gradio", reason='the app needs gradio: pip install ".[app]"')

from hf_eddpm import EDDPMImageProcessor  # noqa: E402
from hf_eddpm.app import actions, limits  # noqa: E402
from hf_eddpm.app.actions import Grid  # noqa: E402
from hf_eddpm.app.attributes import Attribute, default_attributes, direction_of, valid_samples  # noqa: E402
from hf_eddpm.app.checkpoints import Checkpoints, load_checkpoint  # noqa: E402
from hf_eddpm.app.downloads import write_csv, write_fasta  # noqa: E402
from hf_eddpm.app.examples import example_data, well_known  # noqa: E402
from hf_eddpm.app.inputs import read_data, unwrapped  # noqa: E402
from hf_eddpm.app.latent_map import decode_point, draw_map  # noqa: E402
from hf_eddpm.app.page import add_tabs, build_page, describe, serve  # noqa: E402
from hf_eddpm.app.space import export_space  # noqa: E402
from hf_eddpm.app.widgets import in_sentences, show_grid  # noqa: E402

ROOT = Path(__file__).parent.parent
FOLDERS = {name: str(ROOT / "model_cards" / f"eddpm-{name}") for name in ("yelp", "gifford", "digits")}
TABS = {
    "yelp": ["Generate", "Reconstruct", "Interpolate", "Edit", "Latent map", "Score"],
    "gifford": [
        "Generate",
        "Reconstruct",
        "Interpolate",
        "Edit",
        "Predict",
        "Optimize",
        "Design",
        "Latent map",
        "Score",
    ],
    "digits": ["Generate", "Reconstruct", "Interpolate", "Edit", "Latent map", "Score"],
}


@pytest.fixture(scope="session")
def loaded():
    """Function that loads a shipped checkpoint, once."""
    checkpoints = Checkpoints("cpu")

    def load(name):
        checkpoint = checkpoints.get(FOLDERS[name])
        checkpoint.pipe.set_progress_bar_config(disable=True)
        return checkpoint

    return load


@pytest.fixture(params=list(FOLDERS))
def checkpoint(request, loaded):
    return loaded(request.param)


def examples_of(checkpoint):
    return example_data(checkpoint.pipe, checkpoint.training, checkpoint.evaluation)


def test_every_checkpoint_comes_with_examples_of_its_kind(checkpoint):
    examples = examples_of(checkpoint)
    assert len(examples) == 4 and checkpoint.pipe.processor.as_list(examples)
    if checkpoint.modality != "image":
        assert checkpoint.training["examples"][0] in examples
        pairs = checkpoint.evaluation["reconstruction"]["examples"]
        assert all([datum, datum] in pairs for datum in well_known(examples, checkpoint.evaluation))


def test_a_checkpoint_without_a_card_draws_its_own_examples(pipe):
    examples = example_data(tiny_image_pipe(), {}, {})
    assert len(examples) == 4 and well_known(examples, {}) == examples
    assert all(isinstance(image, Image.Image) for image in examples)
    assert 1 <= len(example_data(pipe, {"examples": [3, ""]}, {})) <= 4


def test_samples_repeat_under_a_seed_and_have_the_class_asked_for(checkpoint):
    label = min(3, len(checkpoint.class_names) - 1) if checkpoint.class_names else None
    first, again, other = (actions.generate(checkpoint.pipe, 3, 5, 1.0, label, 2.0, 1, seed) for seed in (0, 0, 1))
    assert first == again != other and len(first) == 3


def test_data_are_reconstructed_beside_themselves(checkpoint):
    data, invert = examples_of(checkpoint), checkpoint.modality == "image"
    grid = actions.reconstruct(checkpoint.pipe, data, 0 if invert else 10, invert, 0)
    assert grid.headers == ["input", "reconstruction", "from its own noise" if invert else "refined"]
    assert grid.column("input") == data
    if invert:
        assert np.abs(np.asarray(grid.rows[0][0], float) - np.asarray(grid.rows[0][2], float)).mean() < 4
    else:
        assert sum(row[0] == row[2] for row in grid.rows) >= 3


def test_a_path_leads_from_one_datum_to_the_other(checkpoint):
    data = well_known(examples_of(checkpoint), checkpoint.evaluation)
    (path,) = actions.interpolate(checkpoint.pipe, data[:1], data[1:2], 5, "noise", checkpoint.modality == "image", 0)
    assert len(path) == 5
    if checkpoint.modality != "image":
        assert path[0] == data[0] and path[-1] == data[1]


def test_edits_move_data_along_every_attribute_that_is_offered(checkpoint):
    known = default_attributes(
        checkpoint.class_names, checkpoint.property_names, checkpoint.evaluation, lambda _: True
    )
    assert known
    for attribute in known.values():
        grid = actions.edit(checkpoint.pipe, examples_of(checkpoint), attribute, 2.0, 0, False, 0)
        assert grid.headers == ["input", "scale 0", "scale 1", "scale 2"]
        assert any(row[1] != row[3] for row in grid.rows)


def test_a_class_is_an_attribute(loaded):
    pipe = loaded("digits").pipe
    direction = direction_of(pipe, Attribute(classes=(1, 0)))
    torch.testing.assert_close(direction, -direction_of(pipe, Attribute(classes=(0, 1))), atol=0.5, rtol=0.5)
    ones, zeros = (pipe(8, class_labels=label, generator=torch.Generator().manual_seed(5)).latents for label in (1, 0))
    assert (ones * direction).sum() > (zeros * direction).sum()


def test_scores_are_a_table_and_a_figure(checkpoint):
    grid, figure = actions.score(checkpoint.pipe, examples_of(checkpoint), 4, 0)
    assert len(grid.rows) == 4 and all(len(row) == 4 for row in grid.rows)
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == [
        "samples of the model",
        "your data",
    ]


def test_properties_are_predicted_optimised_and_designed(loaded):
    checkpoint = loaded("gifford")
    pipe, data, (name,) = checkpoint.pipe, examples_of(checkpoint), checkpoint.property_names
    grid = actions.predict(pipe, data, [name])
    assert grid.headers == ["datum", "fitness"] and all(isinstance(row[1], float) for row in grid.rows)
    better, figure = actions.optimize(pipe, data, 0, name, "hill_climb", "higher", 4, 2, 0)
    assert better.column("fitness before") == grid.column("fitness")
    assert all(row[3] >= row[1] and row[4] <= 2 for row in better.rows)
    assert len(figure.axes[0].lines) == len(data)
    designed = actions.design(pipe, 16, 0, name, "higher", 5.0, 0).column(name)
    assert designed == sorted(designed, reverse=True)
    near = actions.design(pipe, 16, 0, name, -0.5, 5.0, 0).column(name)
    assert [abs(value + 0.5) for value in near] == sorted(abs(value + 0.5) for value in near)


def test_a_click_on_the_map_decodes_the_nearest_point(checkpoint):
    data = examples_of(checkpoint)
    drawn = draw_map(checkpoint.pipe, data, checkpoint.class_names, 12, 0)
    assert len(drawn.names) == len(drawn.latents) == len(data) + 12
    assert (drawn.pixels > 0).all() and (drawn.pixels < drawn.image.size).all()
    for point in range(len(drawn.pixels)):
        assert drawn.nearest(*drawn.pixels[point] + 0.1) == point
    x, y = drawn.pixels[0].round().astype(int)
    box = np.asarray(drawn.image.crop((x - 9, y - 9, x + 9, y + 9)).convert("L"))
    assert box.min() < 90  # the mark of a given datum stands there
    assert drawn.with_ring(7) != drawn.image
    if checkpoint.modality == "protein":
        assert decode_point(checkpoint.pipe, drawn, 0) == data[0]
    else:
        assert decode_point(checkpoint.pipe, drawn, 5) == decode_point(checkpoint.pipe, drawn, 5)


def test_only_samples_that_the_processor_takes_are_used(loaded):
    processor = loaded("gifford").pipe.processor
    assert valid_samples(processor, ["ACD", "A-C", ""]) == ["ACD"]
    with pytest.raises(ValueError, match="another seed"):
        valid_samples(processor, ["A-C"])


def test_lines_fasta_and_uploads_become_data(loaded):
    text, protein, image = (loaded(name).pipe.processor for name in FOLDERS)
    assert read_data(text, "text", " a b .\n\n c d .\n", "Data") == ["a b .", "c d ."]
    assert read_data(protein, "protein", ">one\nacd\nEFG\n>two\nHIK", "Data") == ["ACDEFG", "HIK"]
    assert unwrapped("acd efg\nhik") == "ACDEFG\nHIK"
    photo = random_images(1, channels=3, size=60)[0].resize((90, 60))
    uploads = [(photo, "a caption"), photo.convert("RGBA"), random_images(1)[0]]
    assert [each.size for each in read_data(image, "image", uploads, "Data")] == [(8, 8)] * 3
    assert {each.mode for each in read_data(image, "image", uploads, "Data")} == {"L"}


@pytest.mark.parametrize(("resize", "level"), [("none", 255), ("crop", 255), ("stretch", 0)])
def test_uploads_are_fitted_as_the_processor_fits_images(resize, level):
    wide = Image.new("LA", (24, 8), (0, 255))
    wide.paste(Image.new("LA", (8, 8), (0, 0)), (8, 0))  # transparent in the middle
    (fitted,) = read_data(EDDPMImageProcessor(8, 1, resize=resize), "image", [wide], "Data")
    assert fitted.size == (8, 8) and fitted.getpixel((0, 4)) == pytest.approx(level, abs=16)
    (black,) = read_data(EDDPMImageProcessor(8, 1, resize=resize, background=0), "image", [wide], "Data")
    assert black.getextrema() == (0, 0)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("yelp", "", "“Data” is empty: write at least one line."),
        ("yelp", None, "“Data” is empty: write at least one line."),
        ("yelp", "a .\n" * 33, "“Data” may hold at most 32 data, got 33."),
        ("yelp", "a" * 1001, "Line 1 of “Data” has 1001 characters, and at most 1000 are taken."),
        ("gifford", "ACD1", "“Data” does not suit this checkpoint. `data` must consist of"),
        ("gifford", "A" * 21, "1 to 20 residues, got 21"),
        ("digits", None, "“Data” is empty: upload at least one image."),
        ("digits", [(Image.new("L", (5000, 2)), None)], "Image 1 of “Data” is 5000 x 2"),
        ("digits", ["words"], "Number 1 of “Data” is no image."),
    ],
)
def test_what_cannot_be_read_is_said_in_a_sentence(loaded, name, value, message):
    checkpoint = loaded(name)
    with pytest.raises(ValueError) as error:
        read_data(checkpoint.pipe.processor, checkpoint.modality, value, "Data")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda pipe: actions.generate(pipe, 65, 5, 1.0, None, 1.0, 1, 0),
            r"`num_samples` must be an integer in \[1, 64\]",
        ),
        (lambda pipe: actions.generate(pipe, 4, 201, 1.0, None, 1.0, 1, 0), r"`num_inference_steps`.* in \[1, 200\]"),
        (lambda pipe: actions.generate(pipe, 4, 5, 0.0, None, 1.0, 1, 0), "`noise_scale`"),
        (lambda pipe: actions.generate(pipe, 4, 5, 1.0, 3, 1.0, 1, 0), "`class_labels`"),
        (lambda pipe: actions.generate(pipe, 4, 5, 1.0, None, 1.0, 1, None), "`seed` must be an integer"),
        (lambda pipe: actions.reconstruct(pipe, ["ACD"], 51, False, 0), r"`refinement_steps`.* in \[0, 50\]"),
        (
            lambda pipe: actions.interpolate(pipe, ["ACD"], ["ACD"], 16, "noise", False, 0),
            r"`num_points`.* in \[2, 15\]",
        ),
        (lambda pipe: actions.interpolate(pipe, ["ACD"] * 2, ["ACD"], 3, "noise", False, 0), "as many starts as ends"),
        (lambda pipe: actions.edit(pipe, ["ACD"], Attribute(), 1.0, 0, False, 0), "`positives`"),
        (lambda pipe: actions.edit(pipe, ["ACD"], Attribute(classes=(1, 0)), 1.0, 0, False, 0), "`class_labels`"),
        (lambda pipe: actions.score(pipe, ["ACD"], 257, 0), r"`num_timesteps`.* in \[1, 256\]"),
        (lambda pipe: draw_map(pipe, [], [], 1001, 0), r"`num_samples`.* in \[3, 1000\]"),
        (lambda pipe: actions.optimize(pipe, ["ACD"], 0, "p", "prayer", "higher", 3, 0, 0), "`method` must be one of"),
        (lambda pipe: actions.read_target("value", None), "Write the value that is to be reached."),
    ],
)
def test_a_request_outside_its_limits_names_the_argument(loaded, call, message):
    with pytest.raises(ValueError, match=message):
        call(loaded("gifford").pipe)


def test_targets_are_read():
    assert actions.read_target("lower", 3.0) == "lower" and actions.read_target("value", 3) == 3.0


def test_an_error_is_a_message_on_the_page_and_no_markup():
    def refuse(value):
        raise ValueError(f"`data` must be nice, got {value}.")

    with pytest.raises(gr.Error) as error:
        in_sentences(refuse, "<script>")
    assert error.value.message == "`data` must be nice, got &lt;script&gt;."
    with pytest.raises(ZeroDivisionError):  # a fault of ours: shown as such, and in the log
        in_sentences(lambda: 1 / 0)


def test_a_page_loads_only_what_it_may(tmp_path):
    for sources, name, message in [
        ("none", "user/repo", "loads no others"),
        ("hub", FOLDERS["digits"], "from the Hub"),
        ("hub", "../model_cards", "from the Hub"),
        ("all", " ", "Write the folder"),
    ]:
        with pytest.raises(ValueError, match=message):
            Checkpoints("cpu", sources).ask(name)
    with pytest.raises(OSError, match="is not a saved pipeline"):
        Checkpoints("cpu").ask(str(tmp_path))
    with pytest.raises(ValueError, match="`checkpoint` must be given"):
        build_page(sources="none")


def test_the_last_two_checkpoints_stay_loaded(loaded):
    checkpoints = Checkpoints("cpu")
    first = checkpoints.get(FOLDERS["gifford"])
    assert checkpoints.get(FOLDERS["gifford"]) is first
    checkpoints.get(FOLDERS["digits"])
    assert checkpoints.get(FOLDERS["gifford"]) is first
    checkpoints.get(FOLDERS["yelp"])
    assert checkpoints.get(FOLDERS["gifford"]) is first
    assert len(checkpoints._loaded) == 2


@pytest.mark.parametrize("name", list(FOLDERS))
def test_a_checkpoint_has_the_tabs_of_what_it_can_do(loaded, name):
    checkpoint = loaded(name)
    with gr.Blocks() as page:
        add_tabs(checkpoint)
    assert [block.label for block in page.blocks.values() if isinstance(block, gr.Tab)] == TABS[name]
    assert f"eddpm-{name}" in describe(checkpoint)
    inputs = (gr.Textbox, gr.Slider, gr.Number, gr.Dropdown, gr.Radio, gr.Checkbox, gr.Image, gr.Gallery)
    widgets = [block for block in page.blocks.values() if isinstance(block, inputs)]
    assert [widget.label for widget in widgets if widget.interactive is None] == []  # a guess would lock some of them


def test_a_checkpoint_without_a_card_has_its_tabs(tmp_path, make_pipe):
    make_pipe().save_pretrained(tmp_path)
    for facts in ("[]", "{"):  # no facts of ours
        (tmp_path / "training.json").write_text(facts)
        with gr.Blocks() as page:
            add_tabs(load_checkpoint(str(tmp_path), "cpu"))
    assert [block.label for block in page.blocks.values() if isinstance(block, gr.Tab)] == TABS["yelp"]


def test_results_of_images_are_one_picture_with_lines_of_eight():
    grid = Grid(["input", "reconstruction"], [[image, image] for image in random_images(9)])

    class Images:
        modality = "image"

    picture = show_grid(Images(), grid)
    assert picture.width == 8 * 160 and picture.height == round(4 * 1.15 * 160)


def test_results_are_taken_along_as_files():
    path = Path(write_csv(Grid(["datum", "fitness"], [["A, C", 0.5]]), "predictions"))
    with path.open(newline="") as file:
        assert list(csv.reader(file)) == [["datum", "fitness"], ["A, C", "0.5"]]
    assert path.name == "predictions.csv"
    assert Path(write_fasta(["ACD", "EF"], "designed")).read_text() == ">designed_1\nACD\n>designed_2\nEF\n"


def test_the_page_is_served_without_a_look_at_the_network(monkeypatch):
    asked = []
    connect = socket.socket.connect

    def watched(self, address):
        if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "localhost", "::1"):
            asked.append(address)
            raise OSError("no network")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", watched)
    page = build_page(FOLDERS["gifford"], device="cpu")
    try:
        serve(page, prevent_thread_lock=True, quiet=True)
        assert page.local_url.startswith("http://127.0.0.1:")
        assert page._queue.max_size == limits.MAX_WAITING
    finally:
        page.close()
    assert not asked


@pytest.mark.slow
def test_a_space_of_a_folder_holds_all_that_it_needs(tmp_path):
    yaml = pytest.importorskip("yaml")
    written = export_space(str(tmp_path / "space"), FOLDERS["digits"])
    assert sorted(written) == ["README.md", "app.py", "checkpoint", "hf_eddpm", "requirements.txt"]
    front = yaml.safe_load((tmp_path / "space" / "README.md").read_text().split("---")[1])
    assert front["sdk"] == "gradio" and front["app_file"] == "app.py" and front["sdk_version"] == gr.__version__
    needed = {Requirement(line).name for line in (tmp_path / "space" / "requirements.txt").read_text().splitlines()}
    assert {"torch", "diffusers", "gradio", "matplotlib"} <= needed
    code = "import app, hf_eddpm; print(hf_eddpm.__file__, type(app.page).__name__)"
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path / "space",
        env={"PATH": "", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.split() == [str(tmp_path / "space" / "hf_eddpm" / "__init__.py"), "Blocks"]


def test_a_space_may_name_a_checkpoint_or_none(tmp_path):
    export_space(str(tmp_path / "named"), "user/eddpm-sentences")
    assert "models:\n- user/eddpm-sentences\n" in (tmp_path / "named" / "README.md").read_text()
    assert "build_page('user/eddpm-sentences', sources='none')" in (tmp_path / "named" / "app.py").read_text()
    export_space(str(tmp_path / "open"))
    assert "build_page(None, sources='hub')" in (tmp_path / "open" / "app.py").read_text()
    for folder, checkpoint, message in [
        (tmp_path / "open" / "app.py", None, "`folder` must be a folder"),
        (tmp_path / "more", "no such folder", "is not a saved pipeline"),
        (tmp_path / "more", str(tmp_path), "it has no model_index.json"),
        (Path(FOLDERS["digits"]), FOLDERS["digits"], "`folder` must be another folder"),
    ]:
        with pytest.raises((ValueError, OSError), match=message):
            export_space(str(folder), checkpoint)
