"""The page says what the rows hold, and what is missing; it makes nothing up."""

import dataclasses
import re
from pathlib import Path

import pytest

from lab.study.ledger import COLLAPSED, Row
from lab.study.page import FIGURE_3, MISSING, page, write_curves

CLASSES = ('sky', 'building', 'road', 'sign')


def row(run, seed, miou, scale='half', **more):
    iou = {name: miou + offset for name, offset in zip(CLASSES, (20, 5, -5, -20), strict=True)}
    return Row(run, seed, scale, 'h', miou=miou, total_iters=6000, iou=iou, device='cpu', **more)


@pytest.fixture
def text(tmp_path):
    def write(*rows, speeds=()):
        results = tmp_path / 'results'
        return page(rows, results / 'camvid.csv', tmp_path / 'docs', speeds, results / 'speed.csv')

    return write


def cells(text, title, first):
    """The row of a table by its first cell."""
    section = text.split(f'### {title}')[1].split('###')[0]
    line = next(line for line in section.splitlines() if line.startswith(f'| {first} |'))
    return [cell.strip() for cell in line.strip('|').split('|')]


def test_without_rows_it_says_so_plainly(text):
    said = text()
    assert 'No network has been trained yet' in said
    assert '###' not in said


def test_tiny_runs_reach_no_page(text):
    assert text(row('fp32', 0, 50.0, 'tiny')) == text()


def test_means_spreads_and_gaps(text):
    rows = [row('fp32', s, m) for s, m in enumerate((60.0, 61.0, 62.0))]
    rows += [row('w2a2', s, m, miou_packed=m) for s, m in enumerate((59.9, 60.9))]
    said = text(*rows)
    assert cells(said, 'Table 5', '32 / 32')[1:4] == ['69.8', '61.00 ± 1.00 (3)', '+0.00']
    assert cells(said, 'Table 5', '2 / 2')[1:4] == ['65.7', '60.40 ± 0.71 (2)', '-0.10']
    assert cells(said, 'Table 5', '8 / 8')[2:] == [MISSING, '-', MISSING, '-']
    assert cells(said, 'Change against float', '2 / 2') == [
        '2 / 2', '-2.8', '-0.10 ± 0.00 (2)', '-0.3', 'yes',
    ]  # fmt: skip
    assert cells(said, 'Change against float', '1 / 1')[-1] == MISSING
    assert 'link' not in said
    assert '[camvid.csv](../results/camvid.csv)' in said


def test_scales_are_never_mixed(text):
    said = text(row('fp32', 0, 50.0), row('fp32', 0, 70.0, 'full'))
    full, half = said.split('## Full scale')[1].split('## Half scale')
    assert '70.00 (1)' in full
    assert '50.00' not in full
    assert '50.00 (1)' in half
    assert '70.00' not in half


def test_a_collapsed_run_is_said_to_have_diverged(text):
    said = text(row('fp32', 0, 60.0), Row('w4a1', 0, 'half', 'h', status=COLLAPSED))
    assert cells(said, 'Table 5', '4 / 1')[1:4] == ['diverges', 'diverged (1)', '-']


def test_a_run_whose_config_changed_counts_by_its_latest(text):
    old = row('fp32', 0, 10.0)
    said = text(old, dataclasses.replace(old, hash='new', miou=60.0))
    assert cells(said, 'Table 5', '32 / 32')[2] == '60.00 (1)'


def test_classes_and_whether_the_papers_finding_holds(text):
    low = dataclasses.replace(row('w1a2', 0, 50.0), iou=dict(sky=80, building=64, road=40, sign=10))
    said = text(row('fp32', 0, 60.0), low)
    assert cells(said, 'Tables 4 and 7', 'w1a2') == ['w1a2', '50.0', '80.0', '64.0', '40.0', '10.0']
    assert 'the 2 hardest classes change by -22.5, the 2 easiest by -0.5' in said
    assert 'that hard classes lose most holds here' in said


def speed(network, ratio, **more):
    given = dict(network=network, contender='bfcn', threads='1', isa='avx2', over_float32=ratio)
    return given | dict(over_float32_peer='openvino') | more


def test_the_speed_up_is_the_latest_of_each_instruction_set_with_one_thread(text):
    rows = [row('fp32', 0, 60.0), row('w1a2', 0, 55.0, bytes=400_000), row('w2a2', 0, 56.0)]
    name = 'bfcn_r18_camvid_1w2a_half'
    speeds = [
        speed(name, '7.001'),
        speed(name, '9.0', isa='avx512', over_float32_peer='torch'),
        speed(name, '8.04'),
        speed(name, '4.0', threads='2'),
        speed(name, '', contender='openvino'),
        speed('bfcn_r18_camvid_2bit', '5.0'),  # of the full scale
    ]
    said = text(*rows, speeds=speeds)
    assert cells(said, 'Table 1', 'w1a2')[-2:] == [
        '8.0x (openvino, avx2), 9.0x (torch, avx512)',
        '400',
    ]
    assert '[speed.csv](../results/speed.csv) names the machine' in said
    assert cells(said, 'Table 1', 'w2a2')[-2] == MISSING
    assert cells(said, 'Table 1', 'fp32')[-2] == '1x'


def test_every_row_has_as_many_cells_as_its_header(text):
    said = text(row('fp32', 0, 60.0), row('w1a2', 0, 55.0))
    for table in re.findall(r'(?:^\|.*\|\n)+', said, re.MULTILINE):
        assert len({line.count('|') for line in table.splitlines()}) == 1


def test_rows_are_ranked_over_the_seeds_that_both_have(text):
    rows = [row('w2a2', s, m) for s, m in enumerate((54.0, 58.0))]
    rows += [row('w2a2_via8', 0, 55.0), row('w2a2_p1', 1, 57.0), row('w2a2_p2', 0, 50.0)]
    said = text(*rows).split('### Table 3')[1].split('###')[0]
    # Not as in the paper: 8-bit over decay. P1 shares a seed with decay alone.
    assert 'Of 4 pairs of rows, 3 rank as in the paper' in said
    assert cells(text(*rows), 'Table 3', '8-bit BFCN')[-2:] == ['55.00 (1)', '+1.00']
    assert cells(text(*rows), 'Table 3', 'bit-width decay')[-1] == '-'


def test_one_four_bits_are_held_against_two_two(text):
    said = text(row('w2a2', 0, 54.0), row('w1a4', 0, 55.5), row('w1a4', 1, 50.0))
    assert 'with as many bit-operations as 2 / 2, change its mIoU by +1.50.' in said
    assert 'as many bit-operations' not in text(row('w2a2', 0, 54.0))


def test_figures_are_shown_where_they_lie(tmp_path):
    (tmp_path / 'results').mkdir()
    (tmp_path / 'results/half_fig3.png').touch()
    said = page([row('fp32', 0, 60.0)], Path('x.csv'), tmp_path)
    assert '(results/half_fig3.png)' in said
    assert 'fig4.png' not in said


@pytest.mark.parametrize(
    ('losses', 'verdict'), [((4, 3, 2, 9), 'faster holds'), ((4, 2, 3, 9), 'does not hold')]
)
def test_figure_3_says_who_converges_faster_over_the_shortest_run(tmp_path, losses, verdict):
    (tmp_path / 'results').mkdir()
    (tmp_path / 'results/half_fig3.png').touch()
    records = [[dict(step=50, loss=loss), dict(step=100, loss=loss + 1)] for loss in losses]
    records[0] += [dict(step=150, loss=0.0)]  # after the shortest run has ended
    curves = dict(zip(FIGURE_3.values(), records, strict=True))
    write_curves(tmp_path / 'results/half_fig3.csv', curves)
    said = page([row('fp32', 0, 60.0)], Path('x.csv'), tmp_path)
    assert 'first 100 iterations at 2 bits the mean loss is 4.50 from 32-bit' in said
    assert verdict in said
