from .camvid import CamVidDataset
from .check import DatasetCheckHook, check_data
from .class_weights import ClassWeightHook, class_weights
from .streets import StreetsDataset

__all__ = [
    'CamVidDataset',
    'ClassWeightHook',
    'DatasetCheckHook',
    'StreetsDataset',
    'check_data',
    'class_weights',
]
