"""Write the tables of docs/performance.md and README.md, and a chart, from the CSVs in results/."""

from __future__ import annotations

import argparse
import sys

from bfcn_mm.analysis.report import read_csv
from bfcn_mm.benchmark import report
from lab.report import tables

PAGES = (report.ROOT / 'docs' / 'performance.md', report.ROOT / 'README.md')
CHART = report.ROOT / 'docs' / 'performance.png'
RESULTS = report.ROOT / 'results'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--check',
        action='store_true',
        help='write nothing; exit status 1 if a page is not up to date',
    )
    args = parser.parse_args()
    cpu, kernels = (read_csv(RESULTS / f'{name}.csv') for name in ('cpu', 'kernels'))
    for page in PAGES:
        before = page.read_text()
        after = tables.filled(before, cpu, kernels)
        if not args.check:
            page.write_text(after)
        elif before != after:
            sys.exit(f'{page} is not what the CSVs say: {sys.argv[0]}')
    if args.check:
        sys.exit(0)
    if main_size := tables.at_main_size(cpu):
        report.chart(main_size, CHART)
    print(f'{len(cpu)} rows of networks, {len(kernels)} of kernels: wrote')
    print(*(page.relative_to(report.ROOT) for page in PAGES), sep='\n')
