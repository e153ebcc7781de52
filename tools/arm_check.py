"""Build the C runtime for ARMv7 and AArch64, test it under qemu-user, compare it with this machine."""

import argparse
import sys
from pathlib import Path

from bfcn_kernels.arm import check


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--work-dir', type=Path, default=Path('build/arm'), help='builds and models'
    )
    args = parser.parse_args()
    try:
        return check.run(args.work_dir)
    except RuntimeError as error:
        print(f'arm_check: {error}', file=sys.stderr)
        return 1


if __name__ == '__main__':
    sys.exit(main())
