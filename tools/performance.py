"""Write the tables and the chart of docs/performance.md from results/cpu.csv, kernels.csv and arm.csv."""

from __future__ import annotations

import argparse
import sys

from _mmseg import errors_in_one_line
from bench import markdown, report

PAGE = report.ROOT / 'docs' / 'performance.md'
CHART = report.ROOT / 'docs' / 'performance.png'
RESULTS = report.ROOT / 'results'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--check',
        action='store_true',
        help='write nothing; exit status 1 if the page is not up to date',
    )
    args = parser.parse_args()
    with errors_in_one_line():
        cpu, kernels = (report.read(RESULTS / f'{name}.csv') for name in ('cpu', 'kernels'))
        before = PAGE.read_text()
        after = markdown.filled(before, cpu, kernels)
        if args.check:
            sys.exit(0 if before == after else f'{PAGE} is not what the CSVs say: {sys.argv[0]}')
        PAGE.write_text(after)
        if main_size := markdown.at_main_size(cpu):
            report.chart(main_size, CHART)
    print(
        f'{PAGE.relative_to(report.ROOT)}: {len(cpu)} rows of networks, {len(kernels)} of kernels'
    )


if __name__ == '__main__':
    main()
