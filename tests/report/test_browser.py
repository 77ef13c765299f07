"""The pages in a real browser: no complaint, no request, no script, nothing wider than the window, light and dark."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bertkit.report import page, suite
from tests.report import browser, pages
from tests.report.browser import Browser

pytestmark = pytest.mark.slow
FORMS = [*pages.EVERY, "suite"]
BACKGROUND = "getComputedStyle(document.body).backgroundColor"
INK = "getComputedStyle(document.querySelector('figure svg text')).fill"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = browser.find()
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(browser.NAMES)} is on the path ('apt-get install chromium')")
    with browser.started(program, tmp_path_factory.mktemp("profile")) as one:
        yield one


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    found = {}
    for form in FORMS:
        found[form] = folder / f"{form}.html"
        html = suite(pages.suite()) if form == "suite" else page(pages.of_form(form))
        found[form].write_text(html, encoding="utf-8")
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("form", FORMS)
def test_page_opens_without_complaint_or_request(
    chromium: Browser, written: dict[str, Path], form: str, scheme: str, tmp_path: Path
) -> None:
    file = written[form]
    chromium.open(file, scheme=scheme)
    assert chromium.requests() == [file.resolve().as_uri()]
    assert chromium.complaints() == []
    assert chromium.value("typeof window.ran") == "undefined"
    assert chromium.value("document.scripts.length + document.images.length") == 0
    picture = Path(os.environ.get("BERTKIT_SCREENSHOTS", tmp_path)) / f"{form}-{scheme}.png"
    chromium.screenshot(picture)
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_what_is_below_it(chromium: Browser, written: dict[str, Path], scheme: str) -> None:
    chromium.open(written["classes"], scheme=scheme)
    texts = [
        "document.querySelector('p')",
        "document.querySelector('thead th')",
        "document.querySelector('a, summary')",
    ]
    colours = [f"getComputedStyle({text} ?? document.body).color" for text in texts]
    paper = luminance(chromium.value(BACKGROUND))
    for expression in [*colours, INK]:
        assert contrast(luminance(chromium.value(expression)), paper) >= 4.5, expression
    # The page follows the reader's choice, and the drawings follow the page.
    assert (paper > 0.5) == (scheme == "light")


@pytest.mark.parametrize("form", FORMS)
def test_page_fits_a_telephone(chromium: Browser, written: dict[str, Path], form: str) -> None:
    chromium.open(written[form], width=400)
    assert chromium.value("document.documentElement.scrollWidth") <= 400


def test_browser_would_notice_requests_scripts_and_errors(chromium: Browser, tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text("<script>window.ran = 1; console.error('x')</script><img src='missing.png'>", encoding="utf-8")
    chromium.open(bad)
    assert len(chromium.requests()) == 2
    assert any("missing.png" in request for request in chromium.requests())
    assert chromium.complaints()
    assert chromium.value("window.ran") == 1


def test_policy_of_the_page_stops_what_escaping_would_miss(
    chromium: Browser, written: dict[str, Path], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.html"
    html = written["classes"].read_text(encoding="utf-8")
    broken.write_text(html.replace("<main>", f"<main>{pages.EVIL}"), encoding="utf-8")
    chromium.open(broken)
    assert chromium.value("typeof window.ran") == "undefined"
    assert any("Content Security Policy" in each for each in chromium.complaints())


def luminance(colour: str) -> float:
    """Return the relative luminance of ``rgb(r, g, b)`` (WCAG 2.2)."""
    parts = [int(each) / 255 for each in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    red, green, blue = (each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: float, other: float) -> float:
    low, high = sorted((one, other))
    return (high + 0.05) / (low + 0.05)
