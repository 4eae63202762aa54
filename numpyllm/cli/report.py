"""numpyllm report: what happened in one run or several, as one HTML page."""

from pathlib import Path

from ..training.report import write_report
from .arguments import Parser


def main(argv=None):
    parser = Parser(prog="numpyllm report", description="Write one HTML page about one run, or about several beside each other: curves, "
                    "samples, configuration, environment. It needs no network and no other file.")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run, as --out_dir named it")
    parser.add_argument("--out", default=None, metavar="FILE.html", help="the page (default: report.html in the first run's folder)")
    args = parser.parse_args(argv)
    out = Path(args.out or Path(args.runs[0]) / "report.html")
    write_report(args.runs, out)
    print(out)
    return 0
