"""numpyllm report: what is on the page, what is refused, and the page in a real browser."""

import functools
import http.server
import json
import math
import random
import re
import shutil
import threading
import xml.etree.ElementTree as ElementTree

import pytest
import tiny_run
from hypothesis import given
from hypothesis import strategies as st

from numpyllm.cli.main import main
from numpyllm.errors import InputError
from numpyllm.training.chart import Series, line_chart, smooth, thin, tick_labels, ticks
from numpyllm.training.report import read_run, write_report
from numpyllm.training.samples import SampleLog

EVIL = "</script><script>document.title='taken'</script><img src=http://localhost:1/x onerror=alert(1)> \x00\x1b[31m\u202e & \"'"


def make_run(folder, lines, samples=(), config=None):
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if samples:
        (folder / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in samples))
    if config is not None:
        (folder / "config.toml").write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in config.items()))
    return folder


def page_of(tmp_path, *folders):
    write_report(folders, tmp_path / "page.html")
    return (tmp_path / "page.html").read_text()


def lines_of(n, factor=1.0):
    return [{"step": 10 * i, "train/loss": factor * 4 / (i + 1), "train/lr": 1e-3, "train/grad_norm": 1.0, "train/tok_per_sec": 9e4,
             "grad_norm/blocks.0": 0.5} | ({"val/loss": factor * 5 / (i + 1), "val/bpb": 1.5} if i % 5 == 0 else {}) for i in range(n)]


@pytest.fixture(scope="module")
def spiky(tmp_path_factory):
    """A real run: one spike skipped, two gone back from, samples."""
    folder = tmp_path_factory.mktemp("real") / "spiky"
    made = tiny_run.make(folder, log_interval=1, observers=[SampleLog(folder / "samples.jsonl")])
    made.sample = lambda model: EVIL
    assert made.run()
    return folder


def test_a_page_shows_a_real_run(tmp_path, spiky):
    page = page_of(tmp_path, spiky)
    for title in ("Loss", "Bits per byte", "Learning rate", "Gradient norm", "Throughput", "Gradient norm by group", "Events"):
        assert f">{title}</h" in page
    assert page.count("<svg") == 6 and "batch skipped: loss " in page and "went back to this step; learning rate times 0.5" in page
    assert "<th>spike_zscore</th><td>5</td>" in page            # from the checkpoint: a run begun in Python has no config.toml
    assert not re.search(r"<script>document|<img|\x00|\x1b|\u202e", page) and "&lt;img" in page
    assert re.findall(r'(?:src|href)="([^"]*)"', page) == ["data:,"] and "@import" not in page and "default-src 'none'" in page


def test_runs_are_compared(tmp_path):
    a = make_run(tmp_path / "a" / "run", lines_of(20), config={"n_layer": 2, "seed": 1, "out_dir": "x"})
    b = make_run(tmp_path / "b" / "run", lines_of(30), config={"n_layer": 3, "seed": 1, "out_dir": "y", "max_iters": 2000})
    page = page_of(tmp_path, a, b)
    assert page.count("data-toggle=") == 2 and f"<span class=\"swatch c1\"></span>{b}</label>" in page
    configuration = page.split("<h2>Configuration</h2>")[1]
    marked = re.findall(r'<tr class="differs"><th>(\w+)</th>', configuration)
    assert marked == ["n_layer", "max_iters"] and "<summary>2 the same</summary>" in configuration
    assert "<td>190</td>" in page and "<td>290 of 2,000</td>" in page


@pytest.mark.parametrize("lines, words", [
    ([], "nothing was recorded"),
    ([{"step": 0, "val/loss": 6.5}], "6.5000 at 0"),
    ([{"step": 1, "train/loss": math.nan}, {"step": 2, "train/loss": math.inf}, {"step": 3, "train/loss": 2.0}], "2.0000"),
    ([{"step": 7, "train/skipped": 1.0}], "the loss was no number"),
    ([{"step": 1234567, "train/loss": 1e200}, {"step": 1234568, "train/loss": 2.0}], "1,234,568"),
    ([{"step": 5, "train/loss": 1.0}, {"step": 2, "train/loss": 3.0}], "2.0000"),
])
def test_odd_runs_have_a_page(tmp_path, lines, words):
    assert words in page_of(tmp_path, make_run(tmp_path / "run", lines))


def test_a_run_that_is_being_written_has_a_page(tmp_path):
    run = make_run(tmp_path / "run", lines_of(9), samples=[{"step": 1, "text": "whole"}])
    for name in ("metrics.jsonl", "samples.jsonl"):
        with open(run / name, "ab") as file:
            file.write(b'{"step": 95, "tra')
    found = read_run(run)
    assert found.metrics[-1]["step"] == 80 and [one["text"] for one in found.samples] == ["whole"]


@pytest.mark.parametrize("name, content, words", [
    (None, None, "there is no such folder"), ("other", "", "has no metrics.jsonl"), ("metrics.jsonl", "x\n", "line 1 must be a JSON"),
    ("metrics.jsonl", '{"step": "1"}\n', "must hold a step and numbers"), ("metrics.jsonl", '{"train/loss": 1.0}\n', "a step and"),
    ("metrics.jsonl", '{"step": 1, "a": 1' + "0" * 400 + "}\n", "a step and"), ("metrics.jsonl", '{"step": NaN}\n', "a step and"),
    ("metrics.jsonl", '{"step": true}\n', "a step and"), ("samples.jsonl", '{"step": 1}\n', "a step and a text"),
    ("config.toml", "= 3", "must be TOML"), ("environment.json", "[]", "must hold a JSON object")])
def test_bad_input_is_one_line_and_the_old_page_stays(tmp_path, capsys, name, content, words):
    run, out = tmp_path / "run", tmp_path / "page.html"
    if name:
        make_run(run, lines_of(2))
        if name == "other":
            (run / "metrics.jsonl").unlink()
        (run / name).write_text(content)
    out.write_text("old")
    before = sorted(tmp_path.iterdir())
    assert main(["report", str(run), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1 and out.read_text() == "old" and sorted(tmp_path.iterdir()) == before


def test_a_page_that_cannot_be_written_leaves_nothing(tmp_path):
    run = make_run(tmp_path / "run", lines_of(2))
    (tmp_path / "folder").mkdir()
    for out in (tmp_path / "folder", tmp_path / "missing" / "page.html"):
        with pytest.raises(InputError, match="cannot be written"):
            write_report([run], out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "run"]


@given(st.lists(st.one_of(st.floats(), st.sampled_from([0.0, 5e-324, 1e-310, 1.0, 1.0 + 2**-52, 1e99, -1e99, 1e308])), max_size=20),
       st.booleans(), st.booleans())
def test_any_numbers_make_a_chart_within_its_frame(ys, may_be_log, from_zero):
    chart = line_chart([Series('<"&', list(enumerate(ys)), 9, "dots")], '"&<', may_be_log=may_be_log, from_zero=from_zero)
    root = ElementTree.fromstring(chart)
    if root.tag == "svg":
        for path in root.iter("path"):
            if "line" in path.get("class"):
                for number in re.findall(r"[^ ML]+", path.get("d")):
                    assert -1 < float(number) < 600


def test_ticks_are_round_and_their_labels_differ():
    assert ticks(0.0, 1.0) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert tick_labels([0, 50_000, 100_000]) == ["0", "50k", "100k"] and tick_labels([0.0, 0.5, 1.0]) == ["0.0", "0.5", "1.0"]
    assert tick_labels([3.00001, 3.00002]) == ["3.00001", "3.00002"] and tick_labels([0.0, 2e-5]) == ["0", "2e-05"]
    rng = random.Random(0)
    for _ in range(500):
        low = rng.uniform(-1, 1) * 10 ** rng.uniform(-6, 6)
        found = ticks(low, low + abs(low) * 10 ** rng.uniform(-4, 4))
        assert 2 <= len(found) <= 8 and len(set(tick_labels(found))) == len(found)


def test_long_curves_keep_their_ends_and_peaks():
    points = [(i, 1.0) for i in range(10_000)]
    points[5003] = (5003, 99.0)
    kept = thin(points)
    assert len(kept) < 700 and (5003, 99.0) in kept and kept[0] == points[0] and kept[-1] == points[-1]
    assert smooth([(0, 1.0), (1, 3.0), (2, 5.0)], 2) == [(0, 1.0), (1, 2.0), (2, 4.0)]
    assert smooth([(0, 1e30), (1, 1.0), (2, 1.0), (3, 1.0)], 2)[-1] == (3, 1.0)


@pytest.fixture(scope="module")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install 'numpyllm[oracle]'")
    service = pytest.importorskip("selenium.webdriver.chrome.service")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("no chromium with chromedriver on this machine (Debian: apt install chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1200,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    made = webdriver.Chrome(options=options, service=service.Service(driver))
    yield made
    made.quit()


@pytest.fixture
def served(tmp_path):
    """-> URL of a folder, and the list of what was asked for."""
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            asked.append(self.path)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=tmp_path))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.oracle
def test_the_page_in_a_browser(tmp_path, spiky, browser, served):
    url, asked = served
    other = make_run(tmp_path / "other", lines_of(30), samples=[{"step": 1, "text": EVIL}])
    page_of(tmp_path, spiky, other)
    browser.get(f"{url}/page.html")
    script = browser.execute_script
    assert browser.get_log("browser") == [] and browser.title == "spiky, other: training report"
    assert asked == ["/page.html"] and script("return performance.getEntriesByType('resource').length") == 0
    assert EVIL.split(" \x00")[0] in script("return [...document.querySelectorAll('pre')].map(pre => pre.textContent).join()")
    boxes = script("return [...document.querySelectorAll('svg')].slice(0, 5).map(svg => { let box = svg.getBoundingClientRect();"
                   "return [...svg.querySelectorAll('path.line')].map(path => { let b = path.getBoundingClientRect();"
                   "return [b.width > 50, b.left >= box.left, b.right <= box.right + 1, b.top >= box.top - 1, b.bottom <= box.bottom]})})")
    assert len(boxes) == 5 and all(len(lines) >= 2 and all(map(all, lines)) for lines in boxes)

    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By

    chart = browser.find_elements(By.CSS_SELECTOR, "svg.chart")[2]      # the learning rate
    tip = chart.find_element(By.XPATH, "../div[@class='tip']")
    assert not tip.is_displayed()
    ActionChains(browser).move_to_element(chart).perform()
    assert tip.is_displayed() and re.match(r"step \d+\nspiky 0\.\d+.*\nother 0\.001", tip.text)
    toggle = browser.find_element(By.CSS_SELECTOR, "input[data-toggle='0']")
    toggle.click()
    lines = [len([line for line in browser.find_elements(By.CSS_SELECTOR, f"[data-run='{i}'] path") if line.is_displayed()])
             for i in range(2)]
    assert lines[0] == 0 and lines[1] >= 5
    ActionChains(browser).move_to_element(chart).perform()
    assert tip.is_displayed() and "spiky" not in tip.text and "other 0.001" in tip.text
    toggle.click()
    assert browser.find_element(By.CSS_SELECTOR, "[data-run='0'] path").is_displayed()
    script("fetch('/other').catch(() => {})")
    browser.execute_async_script("setTimeout(arguments[0], 300)")
    assert asked == ["/page.html"]              # the page's policy forbids it
    browser.get_log("browser")


@pytest.mark.oracle
@pytest.mark.parametrize("width", [360, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_the_window_and_can_be_read(tmp_path, spiky, browser, width, scheme):
    page_of(tmp_path, spiky, make_run(tmp_path / ("other" * 8), lines_of(30)))
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    browser.get((tmp_path / "page.html").as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    size = "return parseFloat(getComputedStyle(document.querySelector('.tick')).fontSize) * document.querySelector('svg').getBoundingClientRect().width / 560"
    assert browser.execute_script(size) >= 9
    colours = browser.execute_script("let style = getComputedStyle(document.documentElement);"
                                     "return Object.fromEntries(['page', 'card', 'ink', 'quiet', 'c0', 'c1', 'c2', 'c3', 'c4', 'c5', 'c6', 'c7']"
                                     ".map(name => [name, style.getPropertyValue('--' + name).trim()]))")

    def contrast(a, b):
        """Of WCAG 2: 4.5 is asked for text, 3 for lines."""
        def luminance(colour):
            parts = [int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5)]
            return sum(w * (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4) for w, c in zip((0.2126, 0.7152, 0.0722), parts, strict=True))
        low, high = sorted((luminance(colours[a]), luminance(colours[b])))
        return (high + 0.05) / (low + 0.05)

    assert (contrast("page", "ink") > 12) and all(contrast(a, b) >= 4.5 for a in ("page", "card") for b in ("ink", "quiet"))
    assert all(contrast("card", f"c{i}") >= 4.5 for i in range(8))         # they are text in what hovering shows
