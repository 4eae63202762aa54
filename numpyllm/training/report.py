"""One HTML page about one run or several: curves, samples, configuration, environment. It needs no network and no other file.

Whatever comes from a run (names, samples, settings) is escaped, and the page forbids itself (Content-Security-Policy) every
script but its own and every connection.
"""

import base64
import hashlib
import math
from datetime import datetime
from html import escape
from pathlib import Path
from statistics import fmean, median
from typing import NamedTuple

from .. import __version__
from ..config import read_toml
from ..errors import InputError
from ..files import read_json, replacing
from ..models import ARCHITECTURES
from .chart import COLOURS, Series, line_chart, number, smooth
from .checkpoint import checkpoints
from .samples import read_lines

HERE = Path(__file__).parent
EVENTS = 200            # rows of the table of events
LAST = 10               # lines whose mean is "the training loss at the end"
KNOWN = {"train/loss", "val/loss", "val/bpb", "train/lr", "train/grad_norm", "train/tok_per_sec", "train/skipped",
         "train/rollbacks", "train/lr_factor"}


class Run(NamedTuple):
    name: str
    metrics: list           # of {"step": 10, "train/loss": 2.5, ...}
    samples: list           # of {"step": 250, "text": "..."}
    config: dict
    environment: dict

    def points(self, key):
        """(step, value), steps ascending; of two values at one step the later."""
        return sorted({line["step"]: line[key] for line in self.metrics if key in line}.items())

    def values(self, key):
        return [value for _, value in self.points(key) if math.isfinite(value)]


def read_run(path):
    """What a run's folder records -> Run. Raises InputError where there is no metrics.jsonl, or one of no use."""
    path = Path(path)
    if not path.is_dir():
        raise InputError(f"{path} must be the folder of a run, but there is no such folder: name what --out_dir named")
    if not (path / "metrics.jsonl").is_file():
        raise InputError(f"{path} must be the folder of a run, but has no metrics.jsonl")
    metrics = read_lines(path / "metrics.jsonl")
    for line in metrics:
        if not (all(map(_is_number, line.values())) and isinstance(line.get("step"), int)):
            raise InputError(f"{path / 'metrics.jsonl'}: a line must hold a step and numbers, got {str(line)[:80]}")
    samples = read_lines(path / "samples.jsonl") if (path / "samples.jsonl").is_file() else []
    if not all(isinstance(line.get("step"), int) and isinstance(line.get("text"), str) for line in samples):
        raise InputError(f"{path / 'samples.jsonl'}: a line must hold a step and a text")
    state = _newest_state(path)     # what runs of an earlier version, or started from Python, have instead
    config = read_toml(path / "config.toml") if (path / "config.toml").is_file() else state.get("model", {}) | state.get("train", {})
    environment = read_json(path / "environment.json") if (path / "environment.json").is_file() else state.get("versions", {})
    return Run(path.resolve().name, metrics, samples, config, environment)


def _is_number(value):
    """Whether it is one that can be drawn, or NaN or an infinity, which are left out; a JSON integer may have any length."""
    return type(value) is float or type(value) is int and abs(value) < 1 << 63


def _newest_state(path):
    folders = [folder for folder in checkpoints(path) if (folder / "state.json").is_file()]
    return read_json(folders[-1] / "state.json") if folders else {}


def write_report(paths, out):
    """The page about the runs in these folders, into the file `out`. Raises InputError."""
    runs = [read_run(path) for path in paths]
    names = [run.name for run in runs]
    runs = [run._replace(name=str(path)) if names.count(run.name) > 1 else run for run, path in zip(runs, paths, strict=True)]
    page = report(runs).encode("utf-8", "replace")
    with replacing(out) as file:
        file.write(page)


def report(runs):
    """The page about some Runs."""
    style, script = (HERE / "report.css").read_text("utf-8"), (HERE / "report.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    names = ", ".join(run.name for run in runs)
    legend = "".join(f"<li>{_toggle(i, run.name) if len(runs) > 1 else _swatch(i) + escape(run.name)}</li>" for i, run in enumerate(runs))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{escape(names)}: training report</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>Training report</h1>
<div class="quiet">made by numpyllm {__version__}, {datetime.now().astimezone():%Y-%m-%d %H:%M %Z}</div>
<ul class="runs">{legend}</ul>
<h2>In short</h2>
{_summary(runs)}
<h2>Curves</h2>
{_curves(runs)}
{_events(runs)}
<h2>Samples</h2>
<div class="cards">{"".join(_samples(run, i) for i, run in enumerate(runs))}</div>
<h2>Configuration</h2>
{_table(runs, [run.config for run in runs])}
<h2>Environment</h2>
{_table(runs, [run.environment for run in runs])}
</main>
<script>{script}</script>
</body>
</html>
"""


def _summary(runs):
    rows = []
    for i, run in enumerate(runs):
        train, validation, speed = run.values("train/loss"), run.points("val/loss"), run.values("train/tok_per_sec")
        validation = [(step, loss) for step, loss in validation if math.isfinite(loss)]
        best = min(validation, key=lambda point: point[1], default=None)
        cells = [_steps(run), _parameters(run.config),
                 f"{fmean(train[-LAST:]):.4f}" if train else "",
                 f"{validation[-1][1]:.4f}" if validation else "", f"{best[1]:.4f} at {best[0]:,}" if best else "",
                 f"{run.values('val/bpb')[-1]:.4f}" if run.values("val/bpb") else "",
                 f"{median(speed):,.0f}" if speed else "", f"{len(run.points('train/skipped')):,}"]
        rows.append(f"<tr><td>{_swatch(i)}{escape(run.name)}</td>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    heads = ("run", "steps", "parameters", "training loss", "validation loss", "best", "bits per byte", "tokens/s", "spikes")
    return (f'{_scroll("final figures")}<table class="numbers"><thead><tr>{"".join(f"<th>{head}</th>" for head in heads)}</tr></thead>'
            f'<tbody>{"".join(rows)}</tbody></table></div>')


def _steps(run):
    if not run.metrics:
        return ""
    last, whole = max(line["step"] for line in run.metrics), run.config.get("max_iters")
    return f"{last:,}" + (f" of {whole:,}" if isinstance(whole, int) and last < whole else "")      # unfinished


def _parameters(config):
    try:
        kind = ARCHITECTURES[config.get("architecture", "gpt")]
        names = kind.config.__dataclass_fields__.keys() & config.keys()     # an older run's has fewer
        made = kind.config(**{name: config[name] for name in names})
        return f"{kind.estimate(made, 1).parameters:,}" if "n_embd" in names else ""
    except (KeyError, TypeError, InputError):
        return ""


def _curves(runs):
    found = dict.fromkeys(key for run in runs for line in run.metrics for key in line if key != "step")     # in their order
    groups = [key for key in found if key.startswith("grad_norm/")]
    panels = [_panel("Loss", "nats per token; with dots: validation", _losses(runs)),
              _panel("Bits per byte", "of the validation text", _overlay(runs, "val/bpb", "dots")),
              _panel("Learning rate", "", _overlay(runs, "train/lr"), may_be_log=False),
              _panel("Gradient norm", "of the whole gradient, before clipping", _overlay(runs, "train/grad_norm")),
              _panel("Throughput", "tokens per second", _overlay(runs, "train/tok_per_sec"), may_be_log=False, from_zero=True)]
    if groups and len(runs) == 1:
        series = [Series(key.removeprefix("grad_norm/"), runs[0].points(key), i) for i, key in enumerate(groups)]
        key = " ".join(f"<span>{_swatch(i)}{escape(one.label)}</span>" for i, one in enumerate(series))
        panels.append(_panel("Gradient norm by group", "", series, key=key))
    others = [key for key in found if key not in KNOWN and not (key in groups and len(runs) == 1)]
    more = "".join(_panel(key, "", _overlay(runs, key)) for key in others)
    return (f'<div class="cards">{"".join(panels)}</div>'
            + (f'<details><summary>{len(others)} more</summary><div class="cards">{more}</div></details>' if others else ""))


def _events(runs):
    """A table of the steps from which nothing was learnt and those that were gone back to, if there are any."""
    found = [(line["step"], i, _event(line)) for i, run in enumerate(runs) for line in run.metrics if _event(line)]
    if not found:
        return ""
    rows = "".join(f"<tr><td>{step:,}</td><td>{_swatch(i)}{escape(runs[i].name)}</td><td>{what}</td></tr>"
                   for step, i, what in sorted(found)[:EVENTS])
    more = f'<p class="quiet">and {len(found) - EVENTS:,} more</p>' if len(found) > EVENTS else ""
    return (f'<h2>Events</h2>{_scroll("events")}<table><thead><tr><th>step</th><th>run</th><th>what happened</th></tr></thead>'
            f"<tbody>{rows}</tbody></table>{more}</div>")


def _event(line):
    if "train/rollbacks" in line:
        return f"went back to this step; learning rate times {number(line.get('train/lr_factor', 1.0))} from here on"
    if "train/skipped" in line:
        loss = line.get("train/loss", math.nan)
        return "batch skipped: " + (f"loss {number(loss)}" if math.isfinite(loss) else "the loss was no number")
    return ""


def _losses(runs):
    series = []
    for i, run in enumerate(runs):
        points = [(step, loss) for step, loss in run.points("train/loss") if math.isfinite(loss)]
        window = min(200, max(1, len(points) // 40))
        if window > 1:
            series.append(Series(run.name, points, i, "faint"))
        series.append(Series(f"{run.name} training", smooth(points, window), i))
        series.append(Series(f"{run.name} validation", run.points("val/loss"), i, "dots"))
        series.append(Series(f"{run.name}: batch skipped", run.points("train/skipped"), i, "marks"))
        series.append(Series(f"{run.name}: went back", run.points("train/rollbacks"), i, "marks"))
    return series


def _overlay(runs, key, kind="line"):
    return [Series(run.name, run.points(key), i, kind) for i, run in enumerate(runs)]


def _panel(title, what, series, *, key="", may_be_log=True, from_zero=False):
    chart = line_chart(series, title, may_be_log=may_be_log, from_zero=from_zero)
    return (f'<figure class="card"><figcaption><h3>{escape(title)}</h3><span class="quiet">{escape(what)}</span></figcaption>{chart}'
            + (f'<div class="runs quiet">{key}</div>' if key else "") + "</figure>")


def _samples(run, i):
    if not run.samples:
        return f'<div class="card"><h3>{_swatch(i)}{escape(run.name)}</h3><p class="none">none were recorded</p></div>'
    *earlier, last = ((f'<span class="quiet">step {one["step"]:,}</span>', _visible(one["text"])) for one in run.samples)
    before = "".join(f"<p>{head}</p><pre>{text}</pre>" for head, text in reversed(earlier))
    return (f'<div class="card"><h3>{_swatch(i)}{escape(run.name)}</h3>{last[0]}<pre>{last[1]}</pre>'
            + (f"<details><summary>{len(earlier)} earlier</summary>{before}</details>" if earlier else "") + "</div>")


def _visible(text):
    return escape("".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text))


def _table(runs, columns):
    """One row a key. Of several runs, what differs comes first and is marked, and what is the same is folded away."""
    keys = dict.fromkeys(key for column in columns for key in column)
    if not keys:
        return '<div class="card"><p class="none">none was recorded</p></div>'
    recorded = [column for column in columns if column]
    differing = [key for key in keys if key != "out_dir" and len({str(column.get(key)) for column in recorded}) > 1]
    same = [key for key in keys if key not in differing]
    heads = "".join(f"<th>{_swatch(i)}{escape(run.name)}</th>" for i, run in enumerate(runs))

    def rows(keys, mark=""):
        return "".join(f"<tr{mark}><th>{escape(key)}</th>"
                       + "".join(f"<td>{escape(_told(column.get(key)))}</td>" for column in columns) + "</tr>" for key in keys)

    def table(body):
        return f"<table><thead><tr><th></th>{heads}</tr></thead><tbody>{body}</tbody></table>"

    if len(runs) == 1:
        return _scroll("settings") + table(rows(keys)) + "</div>"
    return (_scroll("settings") + (table(rows(differing, ' class="differs"')) if differing else '<p class="quiet">no difference</p>')
            + f"<details><summary>{len(same)} the same</summary>{table(rows(same))}</details></div>")


def _scroll(name):
    """Opens a card that is wider inside than a small window; with the keyboard one gets there, too."""
    return f'<div class="card scroll" tabindex="0" role="region" aria-label="{name}">'


def _told(value):
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else number(value) if isinstance(value, float) else str(value)


def _toggle(i, name):
    return f'<label><input type="checkbox" checked data-toggle="{i}">{_swatch(i)}{escape(name)}</label>'


def _swatch(i):
    return f'<span class="swatch c{i % COLOURS}{" dashed" if i >= COLOURS else ""}"></span>'
