"""Walks through the page of `hf-eddpm app` in headless Chromium, and takes a picture of each tab.

    pip install selenium                     # and Chromium with its driver: apt-get install chromium chromium-driver
    python docs/figures/app_tour.py          # writes docs/_static/app/*.png

The checkpoints are those in model_cards/. The slow test of the page takes the same walk.
"""

import argparse
import base64
import io
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from selenium import webdriver
from selenium.common.exceptions import (
    ElementClickInterceptedException,
    ElementNotInteractableException,
    NoSuchElementException,
    StaleElementReferenceException,
)
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM, DRIVER = "/usr/bin/chromium", "/usr/bin/chromedriver"
CHECKPOINTS = {name: ROOT / "model_cards" / f"eddpm-{name}" for name in ("yelp", "gifford", "digits")}
TABS = {
    "Generate": "generate",
    "Reconstruct": "reconstruct",
    "Interpolate": "interpolate",
    "Edit": "edit",
    "Predict": "predict",
    "Optimize": "optimize",
    "Design": "design",
    "Latent map": "map",
    "Score": "score",
}
_PATIENCE = 60  # seconds
_LARGEST = 150_000  # bytes of a picture


@contextmanager
def served(*words: str) -> Iterator[str]:
    """Run `hf-eddpm app` with these words on a free port; gives its address, and ends it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = "from hf_eddpm.cli.main import main; main()"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, "app", *words, "--port", str(port)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    address = f"http://127.0.0.1:{port}/"
    try:
        deadline = time.monotonic() + _PATIENCE
        while not _answers(address):
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                raise RuntimeError(f"The page does not start: {process.communicate()[1][-2000:]}")
            time.sleep(0.3)
        yield address
    finally:
        process.terminate()
        process.communicate(timeout=30)


def _answers(address: str) -> bool:
    try:
        return urllib.request.urlopen(address, timeout=5).status == 200
    except OSError:
        return False


class Visitor:
    """A visitor of the page: opens tabs, presses buttons, looks at results.

    Args:
        address: Of the page.
        width: Of the window, in pixels.
        height: Of the window.
    """

    def __init__(self, address: str, width: int = 1280, height: int = 1200):
        options = Options()
        options.binary_location = CHROMIUM
        for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
            options.add_argument(argument)
        options.add_argument("--hide-scrollbars")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(DRIVER))
        self.width = width
        self.address = address
        self._set_size(width, height)
        self.driver.get(address)
        self.wait(lambda: self.tabs, "the tabs")
        time.sleep(2)  # the buttons hear a click a moment after they are there

    def close(self) -> None:
        """End the browser."""
        self.driver.quit()

    @property
    def tabs(self) -> list[str]:
        """The tabs that the page offers."""
        names = [tab.get_attribute("textContent").strip() for tab in self._all("button[role=tab]")]
        return list(dict.fromkeys(name for name in names if name in TABS))

    def open(self, tab: str) -> None:
        """Open a tab, in the menu of those that a narrow window has no place for if need be."""
        if not self._click_tab(tab):
            self._all(".overflow-menu button")[0].click()
            self.wait(lambda: self._click_tab(tab), f"the tab {tab!r}")
        self.wait(lambda: self.driver.find_element(By.ID, f"{TABS[tab]}-run").is_displayed(), f"the tab {tab!r}")

    def _click_tab(self, tab: str) -> bool:
        for button in self._all("button[role=tab], .overflow-dropdown button"):
            if button.is_displayed() and button.text.strip() == tab:
                button.click()
                return True
        return False

    def run(self, name: str) -> None:
        """Press a tab's button and wait for its result."""
        self.click(f"{name}-run")
        self.wait(lambda: self.has_result(f"{name}-result"), f"the result of {name!r}")
        self.settle()

    def click(self, element_id: str) -> None:
        """Press the button of an id."""
        self.click_on(f"#{element_id}")

    def click_on(self, selector: str) -> None:
        """Press the first button that a selector finds."""

        def press() -> bool:
            self._in_sight(selector).click()
            return True

        self.wait(press, f"the button {selector!r}")

    def _in_sight(self, selector: str) -> Any:
        """Scroll an element into sight and return it."""
        element = self.driver.find_element(By.CSS_SELECTOR, selector)
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        return element

    def write(self, element_id: str, text: str) -> None:
        """Write a text into a box, in the place of what is there."""

        def fill() -> bool:
            box = self._in_sight(f"#{element_id} textarea, #{element_id} input")
            box.send_keys(Keys.CONTROL, "a")
            box.send_keys(text)
            return True

        self.wait(fill, f"the box {element_id!r}")

    def upload(self, element_id: str, path: Path) -> None:
        """Upload a file into a gallery."""
        self._all(f"#{element_id} input[type=file]")[0].send_keys(str(path))

    def count_images(self, element_id: str) -> int:
        """Return how many images an element shows."""
        return len(self._all(f"#{element_id} img"))

    def click_picture(self, element_id: str, across: float, down: float) -> None:
        """Click on a picture, at shares of its width and height from the upper left corner."""
        picture = self._in_sight(f"#{element_id} img")
        x, y = (across - 0.5) * picture.size["width"], (down - 0.5) * picture.size["height"]
        ActionChains(self.driver).move_to_element_with_offset(picture, int(x), int(y)).click().perform()

    def has_result(self, element_id: str) -> bool:
        """Return whether a table has words or a picture is there."""
        cells = self._all(f"#{element_id} [role=gridcell]")
        return bool(self._all(f"#{element_id} img")) or any(cell.text.strip() for cell in cells)

    def text_of(self, element_id: str) -> str:
        """Return the words of an element."""
        return self.driver.find_element(By.ID, element_id).text.strip()

    def value_of(self, element_id: str) -> str:
        """Return what is written in a box."""
        return self._all(f"#{element_id} textarea, #{element_id} input")[0].get_attribute("value")

    def locked(self, tab: str) -> list[str]:
        """Return the labels of the boxes beside a tab's button that nobody can write into."""
        column = f"//button[@id='{TABS[tab]}-run']/.."
        boxes = self.driver.find_elements(By.XPATH, f"{column}//textarea | {column}//input")
        return [box.get_attribute("outerHTML") for box in boxes if not box.is_enabled()]

    @property
    def messages(self) -> str:
        """What the page complains of."""
        return " ".join(toast.text for toast in self._all(".toast-body"))

    def settle(self) -> None:
        """Wait until nothing is computed and all pictures are there."""
        self.wait(lambda: not self._is_busy(), "the end of the work")
        hidden = "image.offsetParent === null || image.getBoundingClientRect().top > innerHeight"  # loaded when seen
        done = f"return [...document.images].every(image => image.complete || {hidden})"
        self.wait(lambda: self.driver.execute_script(done), "the pictures")
        time.sleep(0.5)  # what fades in

    def _is_busy(self) -> bool:
        return any(wrap.is_displayed() for wrap in self._all(".wrap.generating, .wrap .eta-bar, .progress-text"))

    def wait(self, condition: Any, what: str) -> None:
        """Wait until a condition holds."""
        message = f"waited in vain for {what}; the page says: {self.messages!r}"
        # while the page is drawn anew
        passing = (
            NoSuchElementException,
            StaleElementReferenceException,
            ElementClickInterceptedException,
            ElementNotInteractableException,
        )
        WebDriverWait(self.driver, _PATIENCE, 0.2, passing).until(lambda _: condition(), message)

    def errors(self) -> list[str]:
        """Return the errors of the browser's console since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]

    def foreign_requests(self) -> list[str]:
        """Return what was asked of other machines since the last call."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        urls = [event["params"].get("request", {}).get("url", "") for event in events]
        return [url for url in urls if url.startswith(("http", "ws")) and "127.0.0.1" not in url]

    def scrolls_sideways(self) -> bool:
        """Return whether the page is wider than the window."""
        return self.driver.execute_script("return document.documentElement.scrollWidth > window.innerWidth")

    def picture(self) -> Image.Image:
        """Take a picture of the whole page."""
        self.driver.execute_script("window.scrollTo(0, 0)")
        height = self.driver.execute_script(
            "return Math.ceil(document.querySelector('.tabs').getBoundingClientRect().bottom)"
        )
        clip = {"x": 0, "y": 0, "width": self.width, "height": height + 24, "scale": 1}
        shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": True})
        return Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB")

    def _set_size(self, width: int, height: int) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def _all(self, selector: str) -> list[Any]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)


def walk(visitor: Visitor) -> Iterator[str]:
    """Use every tab with what it is filled with; gives each tab's name when its result is there."""
    for tab in visitor.tabs:
        visitor.open(tab)
        visitor.run(TABS[tab])
        if tab == "Latent map":
            visitor.click_picture("map-result", 0.5, 0.5)
            visitor.wait(lambda: visitor.text_of("map-chosen").startswith("This is"), "the decoded point")
            visitor.settle()
        yield tab


def save(picture: Image.Image, path: Path) -> None:
    """Write a picture as a small PNG file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for colours in (256, 128, 64, 32):
        picture.quantize(colours, dither=Image.Dither.NONE).save(path, optimize=True)
        if path.stat().st_size < _LARGEST:
            return


def main() -> None:
    """Take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output_dir", default=str(ROOT / "docs" / "_static" / "app"))
    parser.add_argument("--checkpoints", nargs="+", choices=CHECKPOINTS, default=list(CHECKPOINTS))
    arguments = parser.parse_args()
    for name in arguments.checkpoints:
        with served(os.path.relpath(CHECKPOINTS[name])) as address:
            visitor = Visitor(address)
            for tab in walk(visitor):
                path = Path(arguments.output_dir, f"{name}-{TABS[tab]}.png")
                save(visitor.picture(), path)
                print(f"{path}: {path.stat().st_size / 1000:.0f} kB")
            visitor.close()
            phone = Visitor(address, width=390)
            phone.run("generate")
            save(phone.picture(), Path(arguments.output_dir, f"{name}-phone.png"))
            phone.close()


if __name__ == "__main__":
    main()
