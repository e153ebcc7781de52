"""The paper's tables on data at hand: what to train, how to carry it out, what came of it.

runs: the list. carry_out: training, measuring, resuming. ledger: the CSV. page: docs/results.md.
publish: a finished run into zoo/.
"""

from .ledger import Ledger, Row
from .runs import SCALES, TABLES, Run, camvid, chain, in_order, select

__all__ = ['SCALES', 'TABLES', 'Ledger', 'Row', 'Run', 'camvid', 'chain', 'in_order', 'select']
