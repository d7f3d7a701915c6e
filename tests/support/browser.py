"""A headless Chromium for tests of pages: Debian's, driven by selenium, without a network."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.remote.webelement import WebElement

FLAGS = (
    "--headless",
    "--no-sandbox",  # tests may run as root in a container
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-device-scale-factor=1",
)

Pixels = npt.NDArray[np.int16]
"""(height, width, RGB)"""


@contextmanager
def chromium(profile: Path, *, watched: bool = True) -> Iterator[webdriver.Chrome]:
    """A browser with `profile` as its fresh folder. Skips the test where there is none.

    `watched` keeps the list that `requests` reads. It holds every picture, so it costs time.
    """
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("no chromium and chromedriver; apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    logs = ("browser", "performance") if watched else ("browser",)
    options.set_capability("goog:loggingPrefs", dict.fromkeys(logs, "ALL"))
    chrome = webdriver.Chrome(options=options, service=Service(driver))
    try:
        chrome.set_window_size(1400, 1000)
        yield chrome
    finally:
        chrome.quit()


def requests(chrome: webdriver.Chrome) -> list[str]:
    """Every address that was asked for since the last call, pictures in the page aside."""
    entries = [json.loads(entry["message"])["message"] for entry in chrome.get_log("performance")]
    asked = [e for e in entries if e["method"] == "Network.requestWillBeSent"]
    urls = [str(e["params"]["request"]["url"]) for e in asked]
    return [url for url in urls if not url.startswith("data:")]


def pixels(element: WebElement) -> Pixels:
    """What the element looks like."""
    with Image.open(io.BytesIO(element.screenshot_as_png)) as image:
        return np.asarray(image.convert("RGB"), np.int16)
