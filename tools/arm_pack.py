"""Pack a model and static programs for ARMv7 and AArch64 boards into one archive with a run script."""

import argparse
import sys
from pathlib import Path

from bfcn_kernels import FileError, GraphError
from bfcn_kernels.arm import pack


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('model', type=Path, metavar='MODEL.gguf')
    parser.add_argument('--out', type=Path, help='default: bfcn-MODEL.tar.gz here')
    parser.add_argument('--work-dir', type=Path, default=Path('build/arm'), help='builds')
    args = parser.parse_args()
    out = args.out or Path(f'bfcn-{args.model.stem}.tar.gz')
    try:
        names = pack.pack(args.model, out, args.work_dir)
    except (RuntimeError, OSError, FileError, GraphError) as error:
        print(f'arm_pack: {error}', file=sys.stderr)
        return 1
    print(
        f'{out}: {out.stat().st_size / 1e6:.1f} MB, {len(names)} files; docs/arm.md says how to run it'
    )
    return 0


if __name__ == '__main__':
    sys.exit(main())
