"""The page in a real browser: offline, in both themes, on a phone, by keyboard, and on paper."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest

from tests.integration.report.conftest import HOSTILE

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]
SECTIONS = (
    *("Results", "Curves", "Where the time went", "Test set", "Inside the network"),
    *("What ran where", "Ledger and receipt", "Repeat or check"),
)
CHECKS = Path(__file__).with_name("page_checks.js").read_text()
OPEN_ALL = "document.querySelectorAll('details').forEach((each) => each.open = true)"


IS_READY = """return location.protocol === "file:" && document.readyState === "complete"
    && !document.getElementById("theme").hidden"""


def show(chromium: Any, page: Path, width: int = 1280, scheme: str = "light") -> None:
    """Open the page as a screen of this width and with these colours shows it."""
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    scheme_of = {"features": [{"name": "prefers-color-scheme", "value": scheme}], "media": ""}
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme_of)
    chromium.get("about:blank")
    chromium.get_log("browser"), chromium.get_log("performance")
    chromium.get(page.as_uri())
    wait_for_page(chromium)


def wait_for_page(chromium: Any) -> None:
    """Wait until the page is parsed and its script has run: ``get`` may return before."""
    from selenium.webdriver.support.wait import WebDriverWait

    WebDriverWait(chromium, 30).until(lambda browser: browser.execute_script(IS_READY))


@pytest.mark.parametrize("which", ["page", "hostile_page"])
def test_it_is_complete_and_has_no_errors(
    which: str, chromium: Any, request: pytest.FixtureRequest
) -> None:
    page = request.getfixturevalue(which)
    show(chromium, page)
    events = [json.loads(entry["message"])["message"] for entry in chromium.get_log("performance")]
    urls = [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
    assert page.as_uri() in urls
    assert [url for url in urls if url != page.as_uri() and not url.startswith("data:")] == []
    assert chromium.get_log("browser") == []
    broken = "return [...document.images].filter((image) => !image.naturalWidth).length"
    assert chromium.execute_script(broken) == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("which", ["page", "hostile_page"])
def test_every_text_has_contrast(
    which: str, scheme: str, chromium: Any, request: pytest.FixtureRequest
) -> None:
    show(chromium, request.getfixturevalue(which), scheme=scheme)
    chromium.execute_script(OPEN_ALL)
    seen, low = chromium.execute_script(f"{CHECKS} return lowContrast()")
    assert seen > 200
    assert low == []


@pytest.mark.parametrize("which", ["page", "hostile_page"])
@pytest.mark.parametrize("width", [360, 800, 1280])
def test_the_page_never_scrolls_sideways(
    which: str, width: int, chromium: Any, request: pytest.FixtureRequest
) -> None:
    show(chromium, request.getfixturevalue(which), width)
    chromium.execute_script(OPEN_ALL)
    assert chromium.execute_script("return document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", [360, 1280])
def test_the_keyboard_reaches_every_control(width: int, chromium: Any, page: Path) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    show(chromium, page, width)
    wanted = chromium.execute_script(f"{CHECKS} return controls()")
    reached = []
    for _ in range(len(wanted) + 2):
        ActionChains(chromium).send_keys(Keys.TAB).perform()
        name, is_visible = chromium.execute_script(f"{CHECKS} return focused()")
        if name in ("BODY", "HTML") or name in reached:
            break
        assert is_visible, f"control {name} has no visible focus"
        reached.append(name)
    assert reached == wanted, "in the order of the page"


def test_the_first_stop_leads_past_the_contents(chromium: Any, page: Path) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    show(chromium, page)
    ActionChains(chromium).send_keys(Keys.TAB, Keys.ENTER).perform()
    assert chromium.execute_script("return document.activeElement.id") == "content"


def test_the_button_changes_the_colours_and_remembers(chromium: Any, page: Path) -> None:
    background = "return getComputedStyle(document.body).backgroundColor"
    show(chromium, page, scheme="light")
    light = chromium.execute_script(background)
    chromium.execute_script("document.getElementById('theme').click()")
    dark = chromium.execute_script(background)
    chromium.refresh()
    wait_for_page(chromium)
    assert chromium.execute_script(background) == dark != light
    chromium.execute_script("document.getElementById('theme').click()")
    assert chromium.execute_script(background) == light
    chromium.execute_script("localStorage.clear()")


def test_on_paper_it_is_light_and_whole(chromium: Any, page: Path) -> None:
    show(chromium, page, scheme="dark")
    options = {"preferCSSPageSize": True, "generateDocumentOutline": True}
    content = base64.b64decode(chromium.execute_cdp_cmd("Page.printToPDF", options)["data"])
    for title in SECTIONS:
        assert f"/Title ({title})".encode() in content
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert chromium.execute_script("return getComputedStyle(document.body).backgroundColor") == (
        "rgb(255, 255, 255)"
    )
    hidden = "return [...document.querySelectorAll('details table')].filter((t) => !t.offsetHeight)"
    assert chromium.execute_script(hidden) == []
    show(chromium, page, width=680)
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    chromium.execute_script(OPEN_ALL)
    beside = """const boxes = [...document.querySelectorAll('.chart table')].map(
        (t) => t.getBoundingClientRect());
        return boxes.slice(1).filter((box, i) => box.top < boxes[i].bottom).length"""
    assert chromium.execute_script(beside) == 0, "the tables of several runs are wide"


def test_a_shadow_shows_where_a_table_is_cut_off(chromium: Any, page: Path) -> None:
    from PIL import Image

    def edge() -> set[Any]:
        """The colours of the right edge of the first table."""
        box = chromium.find_element("css selector", "#results .scroll")
        image = Image.open(io.BytesIO(box.screenshot_as_png)).convert("RGB")
        return {image.getpixel((image.width - 2, row)) for row in range(2, 20)}

    show(chromium, page, 360)
    captions = """return [...document.querySelectorAll('caption span')].filter(
        (e) => e.offsetWidth > e.closest('.scroll').clientWidth).length"""
    assert chromium.execute_script(captions) == 0
    assert (255, 255, 255) not in edge()
    chromium.execute_script("document.querySelector('#results .scroll').scrollLeft = 9999")
    assert edge() == {(255, 255, 255)}


def test_hostile_names_are_text(chromium: Any, hostile_page: Path) -> None:
    show(chromium, hostile_page)
    assert chromium.execute_script("return document.scripts.length") == 1
    assert (
        chromium.execute_script("return document.querySelectorAll('[onload],[onerror]').length")
        == 0
    )
    names = chromium.execute_script(
        "return [...document.querySelectorAll('.matrix tbody th')].map((e) => e.textContent)"
    )
    assert names[:4] == list(HOSTILE[:4])
    assert names[4:6] == ["\\x1b[31mred\\x07", "\\u202egnp.exe"]
    assert names[7:] == [*HOSTILE[7:9], "class 9"]
    assert "<img src=x onerror=alert(4)>" in chromium.execute_script(
        "return document.getElementById('repeat').textContent"
    )
