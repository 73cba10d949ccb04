"""The page of a diagnosis: its structure, read by a parser; and what a real browser makes of it."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from browser import Browser, browser
from calibration_pairs import linear, normal_guide
from pairs import rows

from ppl_vae import diagnose
from ppl_vae.diagnostics import Diagnosis, Finding
from ppl_vae.diagnostics.diagnosis import Picture
from ppl_vae.diagnostics.diagnosis.page import page_of
from ppl_vae.plots import images, khat_points

EVIL = "<script>alert('x')</script> & \"quoted\" </title><img src=http://example.com/x.png>"
VOID = {"meta", "link", "img", "br"}


def finding(name: str = "gap", status: str = "good", **more: object) -> Finding:
    return Finding(name, "How far?", status, f"{name}: 0.1 nats", "at most 0.5 nats", "Somebody, 2018", **more)  # type: ignore[arg-type]


def all_kinds() -> Diagnosis:
    """Every status, every kind of figure and table, and texts that are no HTML."""
    index = pd.MultiIndex.from_tuples([("c", 0), ("c", 1)], names=["site", "latent"])
    table = pd.DataFrame(
        {"number": [1.23456789, np.nan], "count": [3, 4], "flag": [True, False], "words": ["a", EVIL]}, index=index
    )
    wide = pd.DataFrame(np.ones((40, 30)), columns=[f"a column with a name {i}" for i in range(30)])
    points = Picture(lambda ax=None: khat_points([0.1, 0.5, 0.9], ax=ax), "k-hat of 3 rows")
    photo = Picture(lambda ax=None: images(np.eye(4)[None], ax=ax), "a picture", is_photo=True)
    broken = Picture(lambda ax=None: 1 / 0, "a curve")
    findings = (
        finding("good one", pictures=(points, photo), table=table),
        finding(EVIL, "bad", advice=EVIL, table=wide),
        finding("doubtful one", "doubtful", advice="more steps", pictures=(broken,)),
        finding("not asked", "not asked"),
        finding("a" * 120, "not asked", failed=True),
    )
    return Diagnosis(findings, {"pair": EVIL, "rows": "40"})


@pytest.fixture(scope="module")
def real() -> Diagnosis:
    return diagnose(linear(normal_guide(0.5)), rows(60), train=rows(80, seed=1), noun="toys")


class Page(HTMLParser):
    """Elements in their order, with their attributes, their parents and their text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None], tuple[str, ...]]] = []
        self.texts: list[str] = []
        self._places: list[int] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs)
        self.elements.append((tag, dict(attrs), tuple(self.stack)))
        self.texts.append("")
        if tag not in VOID:
            self.stack.append(tag)
            self._places.append(len(self.elements) - 1)

    def handle_endtag(self, tag):
        assert self.stack and self.stack[-1] == tag, f"</{tag}> inside of {self.stack}"
        self.stack.pop()
        self._places.pop()

    def handle_data(self, data):
        for place in self._places:
            self.texts[place] += data

    def all(self, *tags: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes, _ in self.elements if tag in tags]

    def text_of(self, tag: str) -> list[str]:
        return [" ".join(t.split()) for (name, *_), t in zip(self.elements, self.texts, strict=True) if name == tag]


@pytest.fixture(scope="module", params=["every kind", "a real one", "nothing"])
def diagnosis(request, real) -> Diagnosis:
    return {"every kind": all_kinds(), "a real one": real, "nothing": Diagnosis(())}[request.param]


@pytest.fixture(scope="module")
def page(diagnosis) -> Page:
    return Page(page_of(diagnosis))


def test_all_that_is_opened_is_closed_in_its_order(page):
    assert not page.stack
    assert page.elements[0][:2] == ("html", {"lang": "en"})
    assert len(page.text_of("title")) == 1 and page.text_of("title")[0].startswith("Diagnosis: ")
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all("meta")
    assert [len(page.all(tag)) for tag in ("header", "main", "footer")] == [1, 1, 1]


def test_headings_go_down_one_step_at_a_time(page):
    levels = [int(tag[1]) for tag, *_ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_each_picture_says_what_it_shows_and_is_inside_the_page(page, diagnosis):
    pictures = page.all("img")
    drawn = [p for f in diagnosis.findings if f.status != "not asked" for p in f.pictures if p.alt != "a curve"]
    assert len(pictures) == len(drawn)
    assert {p["alt"] for p in pictures} == {p.alt for p in drawn}
    assert all(p["src"].startswith("data:image/png;base64,iVBOR") and len(p["alt"]) > 5 for p in pictures)
    assert all(int(p["width"]) > 0 and int(p["height"]) > 0 for p in pictures)


def test_each_table_has_a_caption_and_its_headings_a_direction(page):
    tables = [i for i, (tag, *_) in enumerate(page.elements) if tag == "table"]
    assert all(page.elements[i + 1][0] == "caption" for i in tables)
    assert all(page.texts[i + 1].strip() for i in tables)
    assert all(attributes.get("scope") in ("row", "col") for attributes in page.all("th"))


def test_names_are_given_once_and_links_lead_somewhere(page):
    ids = Counter(attributes["id"] for _, attributes, _ in page.elements if "id" in attributes)
    assert set(ids.values()) <= {1}
    referred = [a["href"] for a in page.all("a")] + ["#" + s["aria-labelledby"] for s in page.all("section")]
    assert all(target.startswith("#") and target[1:] in ids for target in referred)
    scrolled = [a for a in page.all("div") if a.get("class") == "scroll"]
    assert all(a["tabindex"] == "0" and a["role"] == "region" and a["aria-label"] for a in scrolled)


def test_nothing_is_fetched_and_nothing_runs(page):
    assert not page.all("script", "iframe", "object", "form", "base")
    links = [
        value for _, attributes, _ in page.elements for name, value in attributes.items() if name in ("src", "href")
    ]
    assert all(value.startswith(("data:", "#")) for value in links)
    assert not any(name.startswith("on") for _, attributes, _ in page.elements for name in attributes)
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    assert "url(" not in page.text_of("style")[0] and "@import" not in page.text_of("style")[0]


def test_texts_are_texts():
    page = Page(page_of(all_kinds()))
    assert EVIL in page.text_of("h3")[0] and EVIL in " ".join(page.text_of("td"))
    assert page.text_of("title") == ["Diagnosis: " + all_kinds().headline]


def test_every_finding_is_there_the_worst_first_with_threshold_and_source(diagnosis, page):
    words = page.text_of("main")[0]
    for found in diagnosis.findings:
        assert " ".join(found.name.split()) in words and " ".join(found.sentence.split()) in words
        if found.status != "not asked":
            assert " ".join(found.threshold.split()) in words and " ".join(found.source.split()) in words
    said = [h.split()[-1] for h in page.text_of("h3")]
    assert said == sorted(said, key=["bad", "doubtful", "good"].index)


def test_a_figure_that_cannot_be_drawn_loses_no_page():
    page = Page(page_of(all_kinds()))
    assert "The figure could not be drawn (ZeroDivisionError). a curve" in page.text_of("figcaption")
    hidden = [a.get("aria-hidden") for a in page.all("figcaption")]
    assert hidden.count("true") == 2 and hidden.count(None) == 1  # what an image says already is not said twice


def test_numbers_in_tables():
    page = Page(page_of(all_kinds()))
    cells, captions = page.text_of("td"), page.text_of("caption")
    assert cells[cells.index("1.235") :][:4] == ["1.235", "3", "yes", "a"]
    assert cells[cells.index("1.235") + 4 :][:3] == ["", "4", "no"]
    assert "c, 1" in page.text_of("th") and "site, latent" in page.text_of("th")
    assert any("the first 30 of 40 lines" in caption for caption in captions)


# colours


def luminance(color: str) -> float:
    """Relative luminance as WCAG 2 has it."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_contrasts_are_those_of_black_and_white():
    assert contrast("#000000", "#ffffff") == pytest.approx(21) and contrast("#777777", "#ffffff") < 4.5


@pytest.mark.parametrize("dark", [False, True])
def test_every_text_has_a_contrast_of_seven_to_its_ground(dark):
    """WCAG 2, level AAA."""
    style = Page(page_of(Diagnosis(()))).text_of("style")[0]
    light_part, _, dark_part = style.partition("prefers-color-scheme: dark")
    colors = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", dark_part if dark else light_part))
    on_ground = [(ink, ground) for ink in ("ink", "soft", "link") for ground in ("page", "card")]
    badges = [(f"{status}-ink", status) for status in ("bad", "doubtful", "good", "not-asked")]
    for ink, ground in (*on_ground, *badges):
        assert contrast(colors[ink], colors[ground]) >= 7, (ink, ground, dark)


# a real browser

SIZES = [(390, 844), (1200, 900)]
SIDEWAYS = "document.documentElement.scrollWidth - window.innerWidth"
MISSING = "[...document.images].filter(i => !(i.complete && i.naturalWidth > 0)).length"


@pytest.fixture(scope="module")
def chromium():
    with browser() as found:
        yield found


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("kind", ["every kind", "a real one"])
def test_a_browser_shows_all_of_it(chromium: Browser, real, tmp_path: Path, kind, width, height, dark):
    diagnosis = real if kind == "a real one" else all_kinds()
    path = diagnosis.save(tmp_path / "report.html")
    chromium.open(path.as_uri(), width=width, height=height, dark=dark)
    assert chromium.complaints == []
    assert chromium.requested == [path.as_uri()]
    assert chromium.evaluate("document.images.length") == len(Page(path.read_text()).all("img")) > 0
    assert chromium.evaluate(MISSING) == 0
    assert chromium.evaluate("window.innerWidth") == width
    assert chromium.evaluate(SIDEWAYS) <= 0
    ground = chromium.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(20, 23, 26)" if dark else "rgb(255, 255, 255)")


def test_what_a_screen_reader_is_told(chromium: Browser, tmp_path: Path):
    path = all_kinds().save(tmp_path / "report.html")
    chromium.open(path.as_uri(), width=390, height=844)
    nodes = chromium.call("Accessibility.getFullAXTree")["nodes"]
    told = [(n["role"]["value"], n.get("name", {}).get("value", "")) for n in nodes if not n["ignored"]]
    roles = Counter(role for role, _ in told)
    assert [name for role, name in told if role == "image"] == ["k-hat of 3 rows", "a picture"]
    assert roles["main"] == 1 and roles["table"] == 4 and roles["heading"] == 1 + 4 + 3
    assert all(name for role, name in told if role in ("heading", "table", "region", "link", "image"))
    assert ("rowheader", "not asked") in told and ("columnheader", "Found") in told


def test_the_keyboard_reaches_links_and_tables(chromium: Browser, tmp_path: Path):
    chromium.open(all_kinds().save(tmp_path / "report.html").as_uri(), width=390, height=844)
    reached = []
    for _ in range(6):
        for kind in ("keyDown", "keyUp"):
            chromium.call("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
        reached.append(
            chromium.evaluate("document.activeElement.getAttribute('href') || document.activeElement.className")
        )
    assert reached == ["#findings", "#finding-1", "#finding-2", "#finding-3", "scroll", "scroll"]


def test_the_twins_a_browser_that_sees_nothing_would_pass_anything(chromium: Browser, tmp_path: Path):
    """A broken picture, an error of a script, something fetched, something too wide."""
    path = tmp_path / "bad.html"
    path.write_text(
        "<!DOCTYPE html><html lang=en><meta name=viewport content='width=device-width, initial-scale=1'>"
        "<body><img src='data:image/png;base64,AAAA' alt=broken><img src='missing.png' alt=missing>"
        "<div style='width:800px'>wide</div><script>console.error('no'); nonsense()</script>"
    )
    chromium.open(path.as_uri(), width=390, height=844)
    assert chromium.evaluate(MISSING) == 2
    assert chromium.evaluate(SIDEWAYS + " + (window.innerWidth - 390)") > 0
    assert (tmp_path / "missing.png").as_uri() in chromium.requested
    assert len(chromium.complaints) >= 3


def test_a_page_has_a_suffix_that_browsers_know(tmp_path):
    with pytest.raises(ValueError, match=r"a path that ends in \.html is required, got '.*report\.txt'"):
        all_kinds().save(tmp_path / "report.txt")
    assert all_kinds().save(str(tmp_path / "report.htm")) == tmp_path / "report.htm"


def test_a_notebook_shows_the_lines():
    text = all_kinds()._repr_html_()
    page = Page(text)
    assert len(page.all("tr")) == 6 and "<script>" not in text
    assert EVIL in page.text_of("tr")[1]
