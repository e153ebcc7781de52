"""Build the C runtime for ARMv7 and AArch64, test it under qemu-user, compare it with this machine."""

import argparse
import os
import sys
from pathlib import Path

from lab.arm import check


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--work-dir', type=Path, default=Path('build/arm'), help='builds and models'
    )
    parser.add_argument(
        '--jobs',
        type=int,
        default=os.cpu_count() or 1,
        help='checks at a time; default: every core',
    )
    args = parser.parse_args()
    if args.jobs < 1:
        parser.error(f'--jobs must be 1 or more, got {args.jobs}')
    try:
        return check.run(args.work_dir, args.jobs)
    except KeyboardInterrupt:
        return 130
    except RuntimeError as error:
        print(f'arm_check: {error}', file=sys.stderr)
        return 1
