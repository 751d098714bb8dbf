"""The app in a browser: a visitor uses every tab, of every modality."""

import shutil

import pytest
from PIL import Image

pytest.importorskip("gradio", reason='the app needs gradio: pip install ".[app]"')
pytest.importorskip("selenium", reason="the browser needs selenium: pip install selenium")

import app_tour  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (shutil.which(app_tour.CHROMIUM) and shutil.which(app_tour.DRIVER)),
        reason="there is no browser: apt-get install chromium chromium-driver",
    ),
]
ATTRIBUTES = {
    "yelp": ("great food .\ni love it here .", "awful food .\ni hate it here ."),
    "gifford": ("AAAAYDYWFDY\nARDGYYGSFDY", "DETSYSELDY\nEPWGPRRDTFDY"),
}


@pytest.fixture
def visit():
    """Function that opens the page of a checkpoint and returns its visitor."""
    opened = []

    def start(*words, **size):
        server = app_tour.served(*words)
        visitor = app_tour.Visitor(server.__enter__(), **size)
        opened.append((server, visitor))
        return visitor

    yield start
    for server, visitor in opened:
        visitor.close()
        server.__exit__(None, None, None)


@pytest.mark.parametrize("name", list(app_tour.CHECKPOINTS))
def test_a_visitor_uses_every_tab_and_the_browser_has_nothing_to_complain_of(visit, name, tmp_path):
    visitor = visit(str(app_tour.CHECKPOINTS[name]))
    visited = []
    for tab in app_tour.walk(visitor):
        visited.append(tab)
        assert visitor.locked(tab) == []
    assert visited == visitor.tabs
    assert len(visitor.tabs) == (9 if name == "gifford" else 6)
    assert visitor.messages == ""
    if name == "digits":
        _uploads_an_image(visitor, tmp_path)
    if name in ATTRIBUTES:
        _defines_an_attribute(visitor, *ATTRIBUTES[name])
    assert visitor.errors() == []
    assert visitor.foreign_requests() == []


def _uploads_an_image(visitor, folder):
    Image.effect_mandelbrot((60, 40), (-2, -1, 1, 1), 50).save(folder / "picture.png")
    visitor.open("Reconstruct")
    visitor.upload("reconstruct-data", folder / "picture.png")
    visitor.wait(lambda: visitor.count_images("reconstruct-data") == 5, "the uploaded image")
    visitor.run("reconstruct")
    assert visitor.messages == ""


def _defines_an_attribute(visitor, positives, negatives):
    visitor.open("Edit")
    before = visitor.text_of("edit-result")
    visitor.click_on("#define button")  # opens it
    visitor.write("define-name", "my own")
    visitor.write("define-positives", positives)
    visitor.write("define-negatives", negatives)
    visitor.click("define-run")
    visitor.wait(lambda: visitor.value_of("edit-attribute") == "my own", "the new attribute")
    visitor.click("edit-run")
    visitor.wait(lambda: visitor.text_of("edit-result") != before, "another result")


def test_a_visitor_loads_another_checkpoint_and_reads_what_went_wrong(visit):
    visitor = visit(str(app_tour.CHECKPOINTS["gifford"]))
    visitor.open("Predict")
    visitor.write("predict-data", "ACD1")
    visitor.click("predict-run")
    visitor.wait(lambda: "does not suit this checkpoint" in visitor.messages, "the message")
    visitor.write("checkpoint", "no/such/checkpoint")
    visitor.click("load")
    visitor.wait(lambda: "is not a saved pipeline" in visitor.messages, "the message")
    assert "Predict" in visitor.tabs  # the page stays as it was
    visitor.write("checkpoint", str(app_tour.CHECKPOINTS["digits"]))
    visitor.click("load")
    visitor.wait(lambda: "Predict" not in visitor.tabs and "Score" in visitor.tabs, "the other tabs")
    visitor.run("generate")


def test_the_page_fits_a_phone(visit):
    visitor = visit(str(app_tour.CHECKPOINTS["yelp"]), width=390)
    for tab in visitor.tabs:
        visitor.open(tab)
        visitor.run(app_tour.TABS[tab])
        assert not visitor.scrolls_sideways(), tab
    assert visitor.errors() == []
