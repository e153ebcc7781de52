"""What a board needs in one archive: static programs, a model, a script that runs them."""

import shlex
import tarfile
import tempfile
from pathlib import Path

from bfcn_kernels.arm import toolchain
from bfcn_kernels.gguf_io import read

_SCRIPT = """#!/bin/sh
# ./run.sh [HEIGHT WIDTH [IN.ppm OUT.ppm]]: time the model here, and label an image if one is given.
here=$(cd "$(dirname "$0")" && pwd) || exit 1
model="$here"/{model}
case "$(uname -m)" in
  aarch64 | arm64) programs=aarch64 ;;
  armv7* | armv8l) programs=armv7 ;;
  *) echo "run.sh: no programs for $(uname -m): this archive has aarch64 and armv7" >&2; exit 1 ;;
esac
chmod +x "$here/$programs"/* 2>/dev/null
"$here/$programs/bfcn-bench" "$model" --size "${{1:-160}}" "${{2:-256}}" --runs "${{RUNS:-20}}" \\
  --csv > "$here/result.csv" || exit 1
tail -n 1 "$here/result.csv"
[ $# -lt 4 ] || "$here/$programs/bfcn-run" "$model" "$3" "$4"
"""


def run_script(model: str) -> str:
    """run.sh for a model's file name, whatever characters it has."""
    return _SCRIPT.format(model=shlex.quote(model))


def pack(model: Path, out: Path, folder: Path) -> list[str]:
    """Write out, a tar.gz; the names in it. folder holds the builds between runs.

    Raises FileError or GraphError for a bad model, RuntimeError if a tool is missing.
    """
    read(model)
    toolchain.require_build('armv7', 'aarch64')
    name = out.name.removesuffix('.tar.gz')
    with tempfile.TemporaryDirectory() as room, tarfile.open(out, 'w:gz') as archive:
        script = Path(room) / 'run.sh'
        script.write_text(run_script(model.name))
        script.chmod(0o755)
        archive.add(script, f'{name}/run.sh')
        archive.add(model, f'{name}/{model.name}')
        for architecture, tools in toolchain.ARCHITECTURES.items():
            build = toolchain.build(folder / architecture, architecture)
            for program in ('bfcn-bench', 'bfcn-run'):
                stripped = Path(room) / f'{architecture}-{program}'
                toolchain.call([f'{tools.triple}-strip', '-o', stripped, build / program])
                archive.add(stripped, f'{name}/{architecture}/{program}')
    with tarfile.open(out) as archive:
        return archive.getnames()
