import pytest
from mmengine.registry import DefaultScope

import bfcn_mm  # noqa: F401 - mends mmseg before a test imports it


@pytest.fixture(autouse=True)
def mmseg_scope():
    """Names in configs mean mmseg's, as they do under a runner."""
    with DefaultScope.overwrite_default_scope('mmseg'):
        yield
