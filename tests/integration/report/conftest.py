"""Pages on small runs, and a headless browser to look at them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distcnn.datasets import Split, write_dataset
from distcnn.report.__main__ import main
from tests.conftest import SERIAL, MakeImageSet, as_flags

HOSTILE = (
    "<script>alert(1)</script>",
    "</script></style><img src=x onerror=alert(2)>",
    '" onload="alert(3)',
    "$x^2$ {{ 7 * 7 }}",
    "\x1b[31mred\x07",
    "\u202egnp.exe",
    "a name that is so long that no table of ten columns could ever show it whole " * 3,
    "&lt;b&gt;",
    "数字",
    "",
)
"""Names of classes that a page must show as text."""


@pytest.fixture(scope="session")
def page(tmp_path_factory: pytest.TempPathFactory, image_set: MakeImageSet) -> Path:
    """The page of two runs that have the same weights, and of one that has others."""
    folder = tmp_path_factory.mktemp("runs")
    flags = as_flags(data=image_set(), model="tutorial", epochs=3, log_every=1)
    for name, more in (("a", []), ("b", []), ("c", ["--seed", "1"])):
        SERIAL.train(1, folder / name, *flags, *more)
    assert main([str(folder / name) for name in "abc"]) == 0
    return folder / "a/report.html"


@pytest.fixture(scope="session")
def hostile_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of one traced run whose names are all meant to break it."""
    folder = tmp_path_factory.mktemp("hostile")
    run, data = folder / "<img src=x onerror=alert(4)>$\u202e", folder / "<b>&.h5"
    images = np.random.default_rng(0).integers(0, 256, (200, 28, 28)).astype(np.uint8)
    splits = {name: Split(200, [(images, np.arange(200) % 10)]) for name in ("train", "test")}
    write_dataset(
        data, name="<i>set</i>", source="<u>", classes=10, class_names=HOSTILE, splits=splits
    )
    SERIAL.train(1, run, *as_flags(data=data, model="tutorial", epochs=1, trace=2))
    assert main([str(run), "--output", str(folder / "page.html")]) == 0
    return folder / "page.html"


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A headless browser that selenium controls and that keeps its logs."""
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not binary or not driver:
        pytest.skip("no browser here (Debian: chromium chromium-driver)")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = binary
    profile = tmp_path_factory.mktemp("profile")
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(executable_path=driver)
    browser = webdriver.Chrome(options=options, service=service)
    yield browser
    browser.quit()
