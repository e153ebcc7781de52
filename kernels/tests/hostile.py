"""Hostile files: what each breaks and the one verdict that every reader must give.

`python hostile.py FOLDER` writes them all, with FOLDER/verdicts.txt for the C test;
`python hostile.py --page docs/hostile_files.md` writes the table there. Needs the standard library alone.
"""

import sys
from pathlib import Path

from hostile_case import Hostile
from hostile_containers import containers, tensors, texts
from hostile_graphs import graphs
from hostile_keys import keys
from hostile_numbers import numbers, sizes


def all_files() -> list[Hostile]:
    makers = (containers, texts, tensors, keys, graphs, numbers, sizes)
    return [hostile for make in makers for hostile in make()]


def write(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for index, hostile in enumerate(all_files()):
        name = f'{index:03}.gguf'
        (folder / name).write_bytes(hostile.data)
        lines.append(f'{name}\t{hostile.verdict}\t{hostile.says}\t{hostile.title}\n')
    (folder / 'verdicts.txt').write_text(''.join(lines), encoding='utf-8')


def table() -> str:
    rows = ['| | file | verdict | the message says |', '|---|---|---|---|']
    for hostile in all_files():
        rows.append(f'| {hostile.group} | {hostile.title} | {hostile.verdict} | {hostile.says} |')
    return '\n'.join(rows) + '\n'


def write_page(page: Path) -> None:
    """Put the table after the page's last paragraph."""
    text, _, _ = page.read_text(encoding='utf-8').partition('\n| |')
    page.write_text(f'{text}\n{table()}', encoding='utf-8')


if __name__ == '__main__':
    if sys.argv[1] == '--page':
        write_page(Path(sys.argv[2]))
    else:
        write(Path(sys.argv[1]))
