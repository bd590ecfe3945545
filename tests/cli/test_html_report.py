"""The report on quantization: a page that needs nothing else, whatever the names are."""

import math
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tvmopt import QuantizedLayer, Remark, Report, TvmoptError
from tvmopt.cli import plots
from tvmopt.cli.html_report import render, write_report

EVIL = '</title><script>alert("1")</script>&'


def layer(name: str, effect: float | None, sqnr: float | None = 30.0) -> QuantizedLayer:
    return QuantizedLayer(
        (name,), "conv2d", "int8", "uint8 x int8", "", sqnr, effect, 2000.0, 900.0, 4000, 1100
    )


@pytest.fixture
def report() -> Report:
    kept = QuantizedLayer((f"norm{EVIL}",), "layer_norm", "float32", why=f"too narrow {EVIL}")
    layers = [layer("conv1", 45.0), layer(EVIL, 12.0), kept, layer("conv3", math.inf)]
    return Report(quantization=layers, remarks=[Remark("analysis", "verify", EVIL, EVIL)])


class Tags(HTMLParser):
    """Counts tags, and checks that they are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.counts: dict[str, int] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        if tag not in ("meta",):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_names_are_escaped_and_tags_closed(report: Report):
    page = render(EVIL, [("target", EVIL)], report)
    assert EVIL not in page
    assert "&lt;script&gt;" in page
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert tags.counts["script"] == 1


def test_nothing_is_fetched(report: Report):
    page = render("model.onnx", [], report)
    assert not re.search(r"https?:|src=|href=|@import|url\(", page)
    assert "prefers-color-scheme: dark" in page


def test_the_worst_layer_comes_first_and_figures_can_be_sorted(report: Report):
    page = render("model.onnx", [], report)
    body = page[page.index("<tbody>") : page.index("</tbody>")]
    found = re.findall(r'<td class="name">(.*?)</td>', body)
    assert [name[:5] for name in found] == ["&lt;/", "conv1", "conv3"]
    effects = re.findall(r'data-number="(.*?)">(?:45.0|12.0|no noise)<', body)
    assert effects == ["12.0", "45.0", "inf"]


def test_each_plot_has_a_mark_for_each_figure(report: Report):
    page = render("model.onnx", [], report)
    drawings = [
        ElementTree.fromstring(text)
        for text in re.findall(r"<svg.*?</svg>", page, re.DOTALL)
        if "role=" in text
    ]
    noise, times, sizes = drawings
    kinds = [one.get("class") for one in noise.iter("circle")]
    assert sorted(kinds) == ["effect", "effect", "own", "own", "own", "poor"]
    for drawing in (times, sizes):
        heights = [float(one.get("height", 0)) for one in drawing.iter("rect")]
        assert len(heights) == 6
        assert heights[0] > 2 * heights[1] > 0
    titles = [one.text or "" for one in times.iter("title")]
    assert titles[0] == "conv1: 2.000 ms before, 0.900 ms after"


def test_what_is_not_known_has_no_plot():
    bare = Report(quantization=[QuantizedLayer(("a",), "conv2d", "int8")])
    page = render("model.onnx", [], bare)
    assert 'role="img"' not in page
    assert "Quantized layers" in page


def test_a_slower_layer_is_marked():
    slow = QuantizedLayer(("a",), "conv2d", "int8", us_float=1.0, us_int8=2.0)
    drawing = plots.time_plot([slow])
    assert drawing is not None
    assert [mark.kind for mark in drawing.marks] == ["before", "slower"]


def test_it_is_written_completely_or_not_at_all(report: Report, tmp_path: Path):
    write_report(tmp_path / "out.html", "model.onnx", [], report)
    assert [one.name for one in tmp_path.iterdir()] == ["out.html"]
    with pytest.raises(TvmoptError, match="cannot write"):
        write_report(tmp_path / "no" / "out.html", "model.onnx", [], report)
