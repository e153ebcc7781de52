import pytest

from lab.study.ledger import COLLAPSED, Ledger, Row, locked

CLASSES = ('sky', 'road')
ROW = Row(
    'w1a2', 0, 'half', 'abcd1234', commit='c0ffee', config='configs/x.py', start='float', device='cpu',
    iters=10, total_iters=20, w=1, a=2, miou=41.25, miou_packed=41.5, accuracy=80.0, bytes=1234,
    macs=10, bitops=20, float_macs=0, head_macs=3, seconds=1.5, iou=dict(sky=90.0, road=50.5),
)  # fmt: skip


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / 'results/x.csv', CLASSES)


def test_what_is_written_is_read(ledger):
    assert ledger.read() == []
    assert ledger.append(ROW)
    gone = Row('w4a1', 1, 'half', 'ffff0000', status=COLLAPSED)
    assert ledger.append(gone)
    assert ledger.read() == [ROW, gone]


def test_a_row_is_never_written_twice(ledger):
    ledger.append(ROW)
    text = ledger.path.read_text()
    assert not ledger.append(Row(*ROW.key, commit='another'))
    assert ledger.path.read_text() == text
    for other in (('w1a2', 1, 'half', 'abcd1234'), ('w1a2', 0, 'half', 'other')):
        assert ledger.append(Row(*other))


def test_a_file_of_other_columns_is_refused(ledger, tmp_path):
    ledger.append(ROW)
    with pytest.raises(ValueError, match=r'columns are not those .*iou_tree.*move it away'):
        Ledger(ledger.path, (*CLASSES, 'tree'))
    text = ledger.path.read_text().replace('41.25', 'much')
    ledger.path.write_text(text)
    with pytest.raises(ValueError, match=r"x\.csv, line 2: could not convert .*'much'"):
        ledger.read()


def test_a_lock_is_held_by_one(tmp_path):
    with locked(tmp_path / 'x') as first:
        assert first
        with locked(tmp_path / 'x', wait=False) as second:
            assert not second
    with locked(tmp_path / 'x', wait=False) as third:
        assert third
