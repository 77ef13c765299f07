"""The page: everything in it, every text escaped, nothing asked for, readable in light and dark and without eyes."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest

from bertkit.errors import ConfigError
from bertkit.report import page, suite
from bertkit.report.page import cell
from tests.report import pages
from tests.report.pages import EVIL, evaluation, of_form

VOID = {"meta", "br", "hr", "img", "link", "input"}
ADDRESSES = {"src", "href", "xlink:href", "srcset", "data", "action", "poster", "background"}


class Reader(HTMLParser):
    """What a browser makes of a page, in little: elements, texts by element, and whether all that opens closes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self.open[-1], data.strip()))

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def said(self, tag: str) -> list[str]:
        return [text for name, text in self.texts if name == tag]


@pytest.fixture(scope="module", params=[*pages.EVERY, "suite"])
def html(request: pytest.FixtureRequest) -> str:
    return suite(pages.suite()) if request.param == "suite" else page(of_form(request.param))


@pytest.mark.slow
def test_page_holds_no_script_and_no_element_of_a_text(html: str) -> None:
    found = Reader(html)
    assert not found.open
    assert not {"script", "img", "link", "iframe", "object", "embed", "b>"} & {tag for tag, _ in found.elements}
    handlers = [name for _, attributes in found.elements for name in attributes if name.startswith("on")]
    assert handlers == []
    assert EVIL in found.said("li")
    assert EVIL in found.said("dd")


def test_page_names_no_address_outside_itself(html: str) -> None:
    found = Reader(html)
    given = [value for _, attributes in found.elements for name, value in attributes.items() if name in ADDRESSES]
    assert all(value.startswith("#") or value == "rte/report.html" for value in given)
    assert set(re.findall(r"url\((.)", html)) <= {"#"}
    assert "@import" not in html
    # Names of XML's vocabularies are no addresses that a browser asks, and the texts hold one that is shown.
    left = re.sub(r'xmlns(:\w+)?="[^"]*"', "", html).replace("https://example.org/x.png", "")
    assert "http" not in left.replace("http-equiv", "")


def test_page_forbids_to_load_anything(html: str) -> None:
    policy = next(meta["content"] for meta in Reader(html).all("meta") if "http-equiv" in meta)
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def test_every_drawing_says_what_it_shows(html: str) -> None:
    drawings = Reader(html).all("svg")
    assert len(drawings) >= 2
    assert all(svg["role"] == "img" and len(svg["aria-label"]) > 20 for svg in drawings)


def test_tables_have_headers_of_columns_and_rows(html: str) -> None:
    found = Reader(html)
    scopes = [attributes.get("scope") for attributes in found.all("th")]
    assert set(scopes) == {"col", "row"}
    regions = [each for each in found.all("div") if each.get("role") == "region"]
    assert len(regions) == len(found.all("table"))
    assert all(each["aria-label"] and each["tabindex"] == "0" for each in regions)


def test_ids_are_unique_so_that_no_drawing_clips_another(html: str) -> None:
    ids = [attributes["id"] for _, attributes in Reader(html).elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    used = set(re.findall(r"url\(#([^)]+)\)", html)) | set(re.findall(r'href="#([^"]+)"', html))
    assert used <= set(ids)


def test_headings_go_down_one_by_one(html: str) -> None:
    levels = [int(tag[1]) for tag, _ in Reader(html).elements if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert set(levels[1:]) == {2}


def test_drawings_take_the_colours_of_the_page(html: str) -> None:
    drawings = re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL)
    colours = {colour for svg in drawings for colour in re.findall(r"(?:fill|stroke): ([^;\"']+)", svg)}
    assert colours - {"none"} <= {f"var(--{name})" for name in ("ink", "muted", "rule", "first", "second")}
    style = html[html.index("<style>") : html.index("</style>")]
    light, dark = style.split("@media (prefers-color-scheme: dark)")
    for name in ("ink", "muted", "rule", "first", "second", "paper", "panel"):
        assert f"--{name}: #" in light
        assert f"--{name}: #" in dark


@pytest.mark.slow
def test_controls_and_bidi_overrides_are_replaced() -> None:
    html = page(of_form("classes"))
    assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e\u2066-\u2069]", html)
    assert "a\ufffdb\ufffdc" in html


@pytest.mark.slow
def test_same_evaluation_gives_the_same_bytes() -> None:
    assert page(of_form("numbers")) == page(of_form("numbers"))


def test_scores_stand_with_intervals_and_baselines() -> None:
    found = Reader(page(of_form("classes")))
    assert found.said("th")[:5] == ["metric", "score", "95 % interval", "majority", EVIL]
    assert found.said("td")[:3] == ["0.7500", "0.6000 – 0.9000", "0.5000"]


def test_scores_without_intervals_or_baselines_say_no_word_of_them() -> None:
    html = page(evaluation(pages.classes(), {"accuracy": 0.75}))
    assert "interval" not in Reader(html).said("th")[2]
    assert "bootstrap" not in html
    assert "'bertkit baseline'" in " ".join(Reader(html).said("p"))


def test_task_type_without_outcomes_has_a_page_too() -> None:
    found = Reader(page(evaluation({}, {"accuracy": 0.75})))
    assert found.said("h2") == ["Scores", "Learning curve"]


def test_unknown_form_is_named() -> None:
    with pytest.raises(
        ConfigError, match=r"The report has no form 'clases', but 'classes', .*Did you mean 'classes'\?"
    ):
        page(evaluation({"form": "clases"}, {"accuracy": 0.75}))


@pytest.mark.parametrize("number", [1, 2])
def test_a_row_or_two_have_a_page(number: int) -> None:
    html = page(evaluation(pages.classes(number), {"accuracy": 0.0}, lengths=[3] * number, kept=["whole"] * number))
    assert "<h2>Most confident errors</h2>" in html


@pytest.mark.slow
def test_long_tables_are_folded_and_cut() -> None:
    labels = tuple(f"label {n}" for n in range(230))
    html = page(evaluation(pages.classes(460, labels=labels), {"accuracy": 0.75}))
    found = Reader(html)
    assert "230 rows: class" in found.said("summary")
    assert "The first 200 of 230 rows." in found.said("p")
    assert "label 199" in found.said("th")
    assert "label 200" not in found.said("th")


@pytest.mark.parametrize(
    ("value", "shown"), [(None, ""), (0.12345, "0.123"), (12345, "12,345"), ("a\x00", "a\ufffd"), (True, "True")]
)
def test_cells(value: Any, shown: str) -> None:
    assert cell(value, 3) == shown


# Suites ----------------------------------------------------------------------------------------------------------


def test_suite_compares_shares_and_percentages_apart() -> None:
    found = Reader(suite(pages.suite()))
    assert found.said("h2") == ["Scores", "Beside others", "Learning curves", "Every run"]
    names = [svg["aria-label"] for svg in found.all("svg")]
    assert names[0] == "scores of the suite (share): glue/rte accuracy 0.6"
    assert names[1].startswith("scores of the suite (percent): <script>")
    assert names[2].startswith("glue/rte: seed 1: 4 points, 0.5 at 10 to 0.65 at 40")
    assert len(names) == 3


def test_suite_links_to_the_pages_of_its_runs() -> None:
    found = Reader(suite(pages.suite()))
    assert found.all("a") == [{"href": "rte/report.html"}]
    assert found.said("a") == [EVIL]
