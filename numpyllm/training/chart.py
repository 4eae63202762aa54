"""Line charts as SVG, drawn by hand: a page with them needs nothing but itself. What moves is in report.js.

A chart is WIDTH x HEIGHT units of its own and as wide as its place on the page. Colours are classes c0 ... c7 of report.css.
"""

import math
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 560, 270
LEFT, RIGHT, TOP, BOTTOM = 66, 18, 10, 30       # margins
COLOURS = 8
BUCKETS = 300           # places on the x axis: of longer curves the least and the greatest value in each are drawn
LARGEST = 1e100         # beyond it nothing is drawn: differences of such numbers overflow
LOG_SPREAD = 30         # greatest over least, from which an axis is logarithmic if it may be


class Series(NamedTuple):
    label: str
    points: list            # of (x, y), x ascending
    colour: int = 0
    kind: str = "line"      # line, faint (nothing to hover), dots (a line with its points), marks (on the x axis, at x)


def line_chart(series, title="", *, may_be_log=False, from_zero=False):
    """Series -> an <svg>. y that is no finite number is left out; without any point a sentence says so.

    title is for those who cannot see it, as is the range of the values.
    """
    series = [one._replace(points=thin([(x, y) for x, y in one.points if abs(y) < LARGEST])) for one in series]
    drawn = [one for one in series if one.points and one.kind != "marks"]
    if not drawn:
        return '<p class="none">nothing was recorded</p>'
    xs = [x for one in drawn for x, _ in one.points]
    ys = [y for one in drawn for _, y in one.points]
    low, high = min(ys), max(ys)
    log = may_be_log and low > 0 and high / low > LOG_SPREAD
    across = _scale(min(xs), max(xs), LEFT, WIDTH - RIGHT)
    if log:
        down = lambda y, inner=_scale(math.log(low), math.log(high), HEIGHT - BOTTOM, TOP): inner(math.log(y))
        y_ticks = log_ticks(low, high)
    else:
        low = 0.0 if from_zero and low > 0 else low
        pad = 0.04 * (high - low) if high - low > 1e-9 * abs(high) + 1e-300 else abs(high) * 0.05 or 1.0
        low, high = (low if from_zero else low - pad), high + pad
        down = _scale(low, high, HEIGHT - BOTTOM, TOP)
        y_ticks = ticks(low, high)
    about = f"{title}: {number(min(ys))} to {number(max(ys))}, steps {min(xs)} to {max(xs)}"
    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(about)}">']
    for y, text in zip(y_ticks, [number(y) for y in y_ticks] if log else tick_labels(y_ticks), strict=True):
        parts.append(f'<path class="grid" d="M{LEFT} {down(y):.1f}H{WIDTH - RIGHT}"/>'
                     f'<text class="tick" x="{LEFT - 8}" y="{down(y) + 4:.1f}" text-anchor="end">{text}</text>')
    x_ticks = ticks(min(xs), max(xs), most=6)
    for x, text in zip(x_ticks, tick_labels(x_ticks), strict=True):
        parts.append(f'<text class="tick" x="{across(x):.1f}" y="{HEIGHT - 8}" text-anchor="middle">{text}</text>')
    parts.append(f'<path class="axis" d="M{LEFT} {HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>')
    for one in (one for one in series if one.points):
        parts.append(_marks(one, across) if one.kind == "marks" else _curve(one, across, down))
    return "".join(parts) + "</svg>"


def _curve(one, across, down):
    places = [(across(x), down(y)) for x, y in one.points]
    colour = f"c{one.colour % COLOURS}" + (" dashed" if one.colour >= COLOURS else "")
    data = ""
    if one.kind != "faint":
        told = ";".join(f"{x} {number(y)} {a:.1f} {b:.1f}" for (x, y), (a, b) in zip(one.points, places, strict=True))
        data = f' data-label="{escape(one.label)}" data-points="{told}"'
    path = "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in places)
    lone = one.kind == "dots" and len(places) <= 60 or len(places) == 1
    dots = "".join(f'<circle class="dot {colour}" cx="{a:.1f}" cy="{b:.1f}" r="4"/>' for a, b in places) if lone else ""
    return f'<g data-run="{one.colour}"><path class="line {one.kind} {colour}" d="{path}"{data}/>{dots}</g>'


def _marks(one, across):
    y = HEIGHT - BOTTOM
    return "".join(f'<path data-run="{one.colour}" class="mark c{one.colour % COLOURS}" d="M{across(x):.1f} {y}l-4 -8h8z">'
                   f"<title>{escape(one.label)}, step {x:,}</title></path>" for x, _ in one.points)


def thin(points):
    """At most two points for each of BUCKETS stretches of the list: the lowest and the highest of it, in their order."""
    if len(points) <= 2 * BUCKETS:
        return points
    kept = [points[0]]
    for i in range(BUCKETS):
        stretch = points[len(points) * i // BUCKETS:len(points) * (i + 1) // BUCKETS]
        ends = {min(stretch, key=lambda p: p[1]), max(stretch, key=lambda p: p[1])}
        kept += sorted(ends)
    return kept + [points[-1]]


def smooth(points, window):
    """The mean of y over the last `window` points, fewer at the beginning. Each is a sum of its own: in a running one, a single
    huge value would leave its rounding error behind."""
    ys = [y for _, y in points]
    return [(x, math.fsum(part) / len(part)) for i, (x, _) in enumerate(points) if (part := ys[max(0, i + 1 - window):i + 1])]


def ticks(low, high, most=6):
    """Round numbers from low to high, at most `most` or so: steps of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    step = 10.0 ** math.floor(math.log10((high - low) / most))
    step *= next((factor for factor in (1, 2, 5) if (high - low) / (step * factor) <= most), 10)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def tick_labels(values):
    """Round numbers of one axis as texts: 0.05, 0.10 and 0.15; 5k and 10k; 0, 2e-05 and 4e-05."""
    largest = max(map(abs, values))
    size, unit = next(((s, u) for s, u in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if largest >= 10 * s), (1.0, ""))
    if largest >= 1e13 or 0 < largest < 1e-3:
        digits = next((d for d in range(3, 17) if len({f"{value:.{d}g}" for value in values}) == len(values)), 17)
        return [f"{value:.{digits}g}" for value in values]
    values = [value / size for value in values]
    gap = min((b - a for a, b in zip(values, values[1:], strict=False)), default=max(1.0, largest) * 1e-3)
    digits = next((d for d in range(9) if all(abs(round(value, d) - value) < 1e-3 * gap for value in values)), 9)
    return [f"{value:,.{digits}f}{unit if value else ''}" for value in values]


def log_ticks(low, high):
    """Powers of ten from low to high, with 2 and 5 times them if there are few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1,)):
        found = [factor * 10.0 ** power for power in powers for factor in factors if low <= factor * 10.0 ** power <= high]
        if len(found) <= 8:
            break
    return found[::-(-len(found) // 8)] if found else [low]


def number(value):
    """Short, as people write it: 12,000 and 0.0034 and 2e-05."""
    if abs(value) >= 1e4:
        return f"{value:,.0f}" if abs(value) < 1e9 else f"{value:.3g}"
    return f"{value:.4g}"


def _scale(low, high, start, stop):
    if high == low:
        return lambda value: (start + stop) / 2
    return lambda value: start + (value - low) / (high - low) * (stop - start)
