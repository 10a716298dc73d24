"""The page as a browser lays it out: figures that can be read, at the width of a desk and of a phone, in light and in dark."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from synthetic import compressed_shelf, shelf

from edgec.pipeline.report import render
from edgec.pipeline.report.model import assemble

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")

PAGES: dict[str, Callable[[], bytes]] = {
    "deploy": lambda: render(assemble(*shelf()), "html"),
    "compression": lambda: render(assemble(*compressed_shelf(met=False)), "html"),
}
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync"
)
LOOK = """
<script>
const box = e => { const r = e.getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom]; };
const figure = f => ({
  title: f.querySelector('figcaption').textContent,
  svg: box(f.querySelector('svg')),
  ground: getComputedStyle(f).backgroundColor,
  texts: [...f.querySelectorAll('svg text')].map(t => ({text: t.textContent.trim(), box: box(t), fill: getComputedStyle(t).fill})),
  shapes: [...f.querySelectorAll('svg path, svg use')].map(p => ({box: box(p), fill: getComputedStyle(p).fill,
                                                                   opacity: getComputedStyle(p).opacity})),
});
const seen = {
  width: window.innerWidth, needed: document.documentElement.scrollWidth,
  figures: [...document.querySelectorAll('figure')].map(figure),
  badges: [...document.querySelectorAll('.badges li')].map(e => e.innerText),
  tables: [...document.querySelectorAll('table')].map(t => [...t.rows].map(r => [...r.cells].map(c => c.innerText))),
};
const out = document.createElement('pre'); out.id = 'seen'; out.textContent = JSON.stringify(seen); document.body.append(out);
</script>
"""


def looked_at(page: bytes, folder: Path, *, width: int = 1200, dark: bool = False) -> dict[str, Any]:
    """Open a page with a script that notes where everything lies, and read the notes."""
    assert CHROMIUM is not None
    file = folder / "report.html"
    file.write_text(page.decode().replace("</body>", LOOK + "</body>"))
    scheme = ["--blink-settings=preferredColorScheme=0"] if dark else ["--blink-settings=preferredColorScheme=1"]
    command = [CHROMIUM, *FLAGS.split(), *scheme, f"--window-size={width},2000", f"--user-data-dir={folder / 'profile'}", "--dump-dom"]
    done = subprocess.run([*command, file.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    notes: dict[str, Any] = json.loads(found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    return notes


def luminance(colour: str) -> float:
    """Relative luminance of an rgb() colour (WCAG 2.2)."""
    channels = [int(each) / 255 for each in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def overlap(one: list[float], other: list[float]) -> float:
    """Pixels that two boxes share."""
    return max(0.0, min(one[2], other[2]) - max(one[0], other[0])) * max(0.0, min(one[3], other[3]) - max(one[1], other[1]))


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("page", PAGES)
def test_figures_can_be_read(page: str, dark: bool, tmp_path: Path) -> None:
    seen = looked_at(PAGES[page](), tmp_path, dark=dark)
    assert seen["needed"] <= seen["width"], "the page scrolls sideways"
    assert len(seen["figures"]) == {"deploy": 4, "compression": 3}[page]
    for figure in seen["figures"]:
        left, top, right, bottom = figure["svg"]
        assert right - left > 400, figure["title"]
        assert bottom - top > 150, figure["title"]
        texts = [each for each in figure["texts"] if each["text"]]
        assert len(texts) > 10
        for each in texts:
            x0, y0, x1, y1 = each["box"]
            assert min(x0 - left, y0 - top, right - x1, bottom - y1) >= -3, (figure["title"], each)
            assert y1 - y0 > 9, each
            assert contrast(each["fill"], figure["ground"]) > 4.5, each
        names = [each for each in texts if not each["text"].replace(".", "").isdigit()]
        hidden = [(a["text"], b["text"]) for a, b in combinations(names, 2) if overlap(a["box"], b["box"]) > 12]
        assert not hidden, (figure["title"], hidden)


def test_bars_of_the_widths_are_as_long_as_the_share_that_stays(tmp_path: Path) -> None:
    seen = looked_at(PAGES["compression"](), tmp_path)
    (figure,) = [each for each in seen["figures"] if each["title"].startswith("Widths")]
    words = [each["text"] for each in figure["texts"]]
    assert words.count("dense") == 1
    assert [word for word in words if word[-1:] in "✔✘"] == ["2 ✔", "3 ✔", "5 ✘", "6 ✔"], "probes are not among the columns"
    assert "fc" not in words, "a layer that was not cut has no row"
    bars = sorted(box[2] - box[0] for each in figure["shapes"] if float(each["opacity"]) < 0.5 for box in [each["box"]])
    row = [each for each in figure["texts"] if each["text"] in ("64", "31", "21", "15", "18")]
    assert len(row) >= 5 * 3, "layer3 has three layers of 64 channels and five columns"
    assert bars[0] / bars[-1] == pytest.approx(min(int(16 * 0.24) / 16, int(32 * 0.24) / 32), rel=0.06)


def test_a_phone_shows_all_of_it(tmp_path: Path) -> None:
    seen = looked_at(PAGES["compression"](), tmp_path, width=500)  # as narrow as a headless window can be
    assert seen["needed"] <= seen["width"] <= 500
    assert all(figure["svg"][2] <= 500 for figure in seen["figures"])
    assert min(each["box"][3] - each["box"][1] for figure in seen["figures"] for each in figure["texts"] if each["text"]) > 9


def test_the_outcome_and_every_round_stand_on_the_page(tmp_path: Path) -> None:
    seen = looked_at(PAGES["compression"](), tmp_path)
    assert "objective: ✘ not met" in seen["badges"]
    (rounds,) = [table for table in seen["tables"] if table[0][0] == "round"]
    assert [line[0] for line in rounds[1:]] == ["1 probe", "2 trained", "3 trained", "4 probe", "5 trained", "6 trained"]
    assert all(line[-1][0] in "✔✘" for line in rounds[1:])
