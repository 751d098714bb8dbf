import numpy as np
import pytest
import torch
from PIL import Image

import benchmarks
from hf_eddpm.plots import plot_curves, plot_front, plot_interpolation, plot_latents, plot_scores, project_latents


def _drawn(figure, tmp_path):
    figure.savefig(tmp_path / "figure.png")
    pixels = np.asarray(Image.open(tmp_path / "figure.png").convert("L"))
    return pixels.std() > 1  # not blank


def test_paths_of_sentences_and_of_images_are_drawn(tmp_path):
    words = plot_interpolation([["a cat .", "costs $5 and $6 ."], ["b ."]], titles=["one", "two"])
    assert [text.get_text() for axes in words.axes for text in axes.texts] == ["a cat .", "costs $5 and $6 .", "b ."]
    assert _drawn(words, tmp_path)
    images = [[Image.fromarray(np.full((8, 8), level, np.uint8)) for level in (0, 128, 255)]] * 2
    figure = plot_interpolation(images)
    assert [len(axes.images) for axes in figure.axes] == [1] * 6
    assert _drawn(figure, tmp_path)


@pytest.mark.parametrize("labels", [None, ["a", "b"] * 10, [0, 1] * 10, [0.5, 1.5] * 10])
def test_the_plane_is_the_one_in_which_latents_vary_most(labels, tmp_path):
    generator = torch.Generator().manual_seed(0)
    latents = torch.zeros(20, 2, 3)
    latents[:, 0, 1] = torch.linspace(-5, 5, 20)
    latents[:, 1, 2] = 0.01 * torch.randn(20, generator=generator)
    figure = plot_latents(latents, labels)
    points = np.concatenate([each.get_offsets() for each in figure.axes[0].collections])
    assert len(points) == 20
    np.testing.assert_allclose(np.sort(np.abs(points[:, 0])), np.sort(np.abs(np.linspace(-5, 5, 20))), atol=0.1)
    assert _drawn(figure, tmp_path)


def test_points_can_be_placed_in_the_plane_of_others():
    basis = torch.zeros(9, 3)
    basis[:, 2] = torch.linspace(-4, 4, 9)
    basis[0, 0], basis[1, 0] = 0.1, -0.1
    points, shares = project_latents(torch.tensor([[0.0, 7.0, 2.0]]), basis)
    assert points.shape == (1, 2) and abs(abs(points[0, 0]) - 2) < 0.05  # the second number is outside the plane
    assert shares[0] > 0.99 and sum(shares) <= 1.0 + 1e-9


def test_scores_and_fronts_are_drawn(tmp_path):
    figure = plot_scores({"data": torch.tensor([1.0, 2.0]), "foreign": [4.0, 5.0]})
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["data", "foreign"]
    assert _drawn(figure, tmp_path)
    front = plot_front({"joint": [(1, 2), (2, 1)], "two-stage": [(1.5, 2)]}, "rate", "distortion")
    assert [len(line.get_xdata()) for line in front.axes[0].lines] == [2, 1]
    assert _drawn(front, tmp_path)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: plot_interpolation([]), ValueError, "`paths` must hold at least one path"),
        (lambda: plot_interpolation([[1]]), TypeError, "`paths` must hold strings or PIL images"),
        (lambda: plot_interpolation([["a"]], titles=["a", "b"]), ValueError, "`titles`.* 1 paths, got 2"),
        (lambda: plot_latents(torch.zeros(2, 3)), ValueError, "`latents` must be those of at least three"),
        (lambda: plot_latents(torch.zeros(4, 3), ["a"]), ValueError, "`labels`.* 4 data, got 1"),
        (lambda: plot_latents([1]), TypeError, "`latents` must be a tensor"),
        (lambda: plot_scores({"a": [float("nan")]}), ValueError, "`scores` must hold finite numbers"),
        (lambda: plot_scores({"a": [1.0]}, bins=0), ValueError, "`bins` must be an integer of at least 1"),
        (lambda: plot_front({}, "x", "y"), ValueError, "`points` must hold at least one recipe"),
    ],
)
def test_what_cannot_be_drawn_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_curves_show_terms_of_training_and_held_out_data_and_the_rank(tmp_path):
    history = []
    for step in (1, 2, 3):
        terms = {"reconstruction_loss": 2 / step, "diffusion_loss": 1 / step, "loss": 3 / step, "effective_rank": step}
        history += [{"step": step, "learning_rate": 0.1, **terms}]
        history += [{"step": step, "eval_runtime": 1.0, **{f"eval_{name}": value for name, value in terms.items()}}]
    history += [{"train_runtime": 2.0, "train_loss": 1.0, "step": 3}]
    figure = plot_curves(history)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["training", "held-out", "effective rank"]
    for axes in figure.axes[:2]:
        lines = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
        assert set(lines) == {"reconstruction loss", "diffusion loss", "loss"}
        assert lines["loss"] == [[1, 3], [2, 1.5], [3, 1]]
    assert [line.get_label() for line in figure.axes[2].lines] == ["training", "held-out"]
    assert _drawn(figure, tmp_path)


def test_each_evaluation_set_has_curves_of_its_own():
    figure = plot_curves([{"step": 1, "eval_short_loss": 1.0, "eval_long_loss": 2.0, "eval_long_effective_rank": 3.0}])
    assert [line.get_label() for line in figure.axes[0].lines] == ["short loss", "long loss"]
    assert [line.get_label() for line in figure.axes[1].lines] == ["long"]


def test_a_history_without_losses_is_refused():
    with pytest.raises(ValueError, match="`log_history` must hold entries with `step` and"):
        plot_curves([{"train_runtime": 1.0}])


@pytest.mark.parametrize("name", benchmarks.PICTURES)
def test_the_pictures_of_the_benchmarks_are_drawn_from_what_was_measured(name, tmp_path):
    benchmarks.main([name], tmp_path)
    with Image.open(tmp_path / f"{name}.png") as image:
        assert np.asarray(image.convert("L")).std() > 5
