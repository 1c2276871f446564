import dataclasses
import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from optimum_ane.analysis.html_report import figures, read_package, render_html, write_html
from optimum_ane.analysis.inspection import inspect
from optimum_ane.charts import DEVICE_COLORS
from optimum_ane.errors import OutputError, PackageError

pytestmark = pytest.mark.usefixtures("drawn_figures")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
WIDTHS = """<body><script>
const widths = [];
for (const width of [360, 1400]) {
  const frame = document.createElement("iframe");
  frame.style.width = width + "px"; frame.src = "PAGE";
  frame.onload = () => {
    const page = frame.contentDocument;
    widths.push([width, page.documentElement.scrollWidth, page.querySelectorAll("svg").length]);
    document.title = JSON.stringify(widths);
  };
  document.body.append(frame);
}
</script></body>"""


class Outline(HTMLParser):
    """Collects the open elements, the visible text and every attribute of a page."""

    EMPTY = frozenset({"meta", "br", "input", "link", "img"})

    def __init__(self, page):
        super().__init__()
        self.open, self.texts, self.attributes, self.seen = [], [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.attributes += [(tag, *attr) for attr in attrs]
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.texts.append(data.strip())


@pytest.fixture(scope="module")
def package(tiny_package, tmp_path_factory):
    """A validated export of a tiny classifier."""
    directory = tmp_path_factory.mktemp("report") / "package"
    shutil.copytree(tiny_package("distilbert", "text-classification", validate=True, psnr_threshold=20.0), directory)
    return directory


def test_the_page_holds_the_numbers_of_the_report_and_of_the_inspection(package):
    inspection = inspect(package, "A15")
    page = Outline(render_html(inspection, read_package(package)))
    assert page.open == []
    report = json.loads((package / "export_report.json").read_text())
    assert f"{report['package_psnr']['logits']:.1f} dB" in page.texts
    assert f"{report['sizes']['package'] / 1e6:.1f} MB" in page.texts
    assert f"{inspection.flops_share('ane'):.1%}" in page.texts
    assert report["command"] in page.texts
    for group in inspection.groups():
        assert group.rule.reason in page.texts
    for stage in report["seconds"]:
        assert stage in page.texts


def test_of_several_functions_the_page_has_a_table_and_names_the_one_that_it_predicts(tiny_package):
    model = {"num_hidden_layers": 1}
    directory = tiny_package("distilbert", "text-classification", model=model, sequence_length=(8, 16))
    page = Outline(render_html(inspect(directory, function="seq_8"), read_package(directory)))
    assert any("1 × 8, 16 tokens" in text and "predictions of function seq_8" in text for text in page.texts)
    texts = [text for text in page.texts if text]
    counts = inspect(directory, function="seq_8").shares
    start = texts.index("seq_8")
    assert texts[start + 1 : start + 6] == [
        "1 × 8",
        str(sum(share.operations for share in counts.values())),
        *(str(share.operations) for share in counts.values()),
    ]
    assert "seq_16, the default" in texts


def test_of_one_function_the_page_has_no_table_of_them(package):
    assert "Functions" not in Outline(render_html(inspect(package), read_package(package))).texts


def test_the_page_needs_no_network_and_runs_no_script(package):
    page = Outline(render_html(inspect(package), read_package(package)))
    assert not {"script", "link", "img", "iframe", "object"} & set(page.seen)
    loading = {"src", "href", "xlink:href", "action", "data", "srcset"}
    assert all(value.startswith("#") for _, name, value in page.attributes if name in loading)
    assert ("meta", "content", "default-src 'none'; style-src 'unsafe-inline'") in page.attributes


def test_text_of_a_package_cannot_become_markup(package, tmp_path):
    copied = tmp_path / "copied"
    shutil.copytree(package, copied)
    report = json.loads((copied / "export_report.json").read_text())
    hostile = '<script>alert("1")</script><img src=x onerror=alert(2)> $\\frac{$ \\1'
    report["command"] = report["machine"] = report["runtime"] = hostile
    report["package_psnr"] = {hostile: 60.0}
    report["layers"] = {hostile: 50.0}
    report["seconds"] = {hostile: 1.0}
    report["compression"] = {"weights": [{"name": hostile, "form": hostile, "shape": [hostile]}]}
    (copied / "export_report.json").write_text(json.dumps(report))
    page = Outline(render_html(inspect(copied), read_package(copied)))
    assert not {"script", "img"} & set(page.seen)
    assert hostile in page.texts
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]


def test_weights_left_as_they_were_are_told_by_reason_and_the_drop_by_its_unit(package):
    found = read_package(package)
    weights = [{"name": f"bias_{index}", "skipped": "a vector", "bytes_before": 2000} for index in range(5)]
    weights.append({"name": "dense", "form": "int8", "bytes_before": 4000, "bytes_after": 2000, "psnr": 50.0})
    accuracy = {"primary_metric": "accuracy", "drop": 0.25, "original": {"metrics": {"accuracy": 0.9}}}
    report = {**found.report, "compression": {"weights": weights}, "accuracy": accuracy}
    texts = Outline(render_html(inspect(package), dataclasses.replace(found, report=report))).texts
    assert "bias_0, bias_1, bias_2 and 2 more" in texts
    row = texts.index("bias_0, bias_1, bias_2 and 2 more")
    assert [text for text in texts[row + 1 : row + 8] if text] == ["5", "10.0", "a vector"]
    assert "+0.25" in texts
    assert "drop, percentage points" in texts


def test_a_bare_mlpackage_gets_the_predicted_sections_alone(package):
    page = Outline(render_html(inspect(package / "model.mlpackage"), read_package(package / "model.mlpackage")))
    titles = [text for text in page.texts if text in ("Accuracy", "Parity", "Predicted residency", "Memory")]
    assert set(titles) == {"Predicted residency", "Memory"}


def test_a_damaged_report_is_named(package, tmp_path):
    copied = tmp_path / "copied"
    shutil.copytree(package, copied)
    (copied / "export_report.json").write_text('{"package_psnr": {"logits": "many"}}')
    with pytest.raises(PackageError, match=r"package_psnr\.logits is 'many', not a number"):
        render_html(inspect(copied), read_package(copied))
    (copied / "export_report.json").write_text("[]")
    with pytest.raises(PackageError, match="should hold an object"):
        read_package(copied)


def test_a_page_that_cannot_be_written_is_named(package, tmp_path):
    with pytest.raises(OutputError, match="nowhere"):
        write_html(tmp_path / "nowhere" / "page.html", inspect(package), package)


def test_the_strip_draws_runs_of_one_verdict_in_order():
    svg = figures.strip(["fallback"] * 2 + ["ane"] * 6 + ["conditional"] * 2)
    colors = re.findall(r"style=\"fill: (#[0-9a-f]{6})\"", svg)
    assert colors == [DEVICE_COLORS[verdict] for verdict in ("fallback", "ane", "conditional")]
    edges = [float(x) for x in re.findall(r"<path d=\"M ([\d.]+) [\d.]+ \nL", svg)]
    drawn = edges[-3:] if len(edges) < 5 else edges[2:5]
    assert (drawn[2] - drawn[1]) / (drawn[1] - drawn[0]) == pytest.approx(3.0, rel=1e-3)
    assert 'aria-label="operations by device: 6 ane, 2 conditional, 2 fallback"' in svg


def test_equal_layers_and_endless_names_leave_the_figure_whole():
    svg = figures.bars({"a": math.inf, "b" * 900: 50.0}, "dB", ceiling=160.0)
    assert ">equal</text>" in svg
    assert ">50</text>" in svg
    assert "b" * 41 not in svg[svg.index(">") :]


def test_the_strip_marks_each_change_of_device():
    def marks(svg):
        return len(re.findall(r"<use ", svg[svg.index('id="line2d') :]))

    verdicts = ["fallback"] * 2 + ["ane"] * 6 + ["fallback"] * 2
    assert marks(figures.strip(verdicts, cuts=[2, 8])) == marks(figures.strip(verdicts)) + 2


@pytest.mark.parametrize(
    "draw",
    [
        lambda: figures.strip(["ane", "fallback"], [20.0, 80.0]),
        lambda: figures.bars({"a": 1.0, "b": 2.0}, "MB", limit=1.5),
        lambda: figures.ranges({"A14": (1.0, 2.0, 3.0)}, "ms", {"A14": "weights"}),
    ],
)
def test_figures_are_the_same_each_time_and_take_the_colour_of_the_page(draw):
    assert draw() == draw()
    assert "currentColor" in draw()
    assert "#010203" not in draw()
    assert "#000000" not in draw()


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium; .ci/run installs it where it can")
def test_a_browser_shows_the_page_without_errors_and_without_scrolling_sideways(package, tmp_path):
    write_html(tmp_path / "page.html", inspect(package, "A15"), package)
    harness = tmp_path / "harness.html"
    harness.write_text(WIDTHS.replace("PAGE", (tmp_path / "page.html").as_uri()))
    quiet = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync"
    done = subprocess.run(
        [CHROMIUM, *quiet.split(), "--allow-file-access-from-files", "--virtual-time-budget=5000",
         f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--dump-dom", harness.as_uri()],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert not re.findall(r".*CONSOLE.*", done.stderr)
    widths = json.loads(re.search(r"<title>(.*?)</title>", done.stdout).group(1))
    assert sorted(width for width, _, _ in widths) == [360, 1400]
    figures = (tmp_path / "page.html").read_text().count("<svg")
    for width, needed, shown in widths:
        assert needed <= width
        assert shown == figures
