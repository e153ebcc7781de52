from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS


@DATASETS.register_module()
class CamVidDataset(BaseSegDataset):
    """CamVid in the 11 classes of SegNet (Badrinarayanan et al., 2017), 255 = ignore.

    images/{train,val}/*.jpg with annotations/{train,val}/*.png of the same names, one channel.
    """

    METAINFO = dict(
        classes=(
            'sky', 'building', 'pole', 'road', 'sidewalk', 'tree',
            'sign', 'fence', 'car', 'pedestrian', 'bicyclist',
        ),
        palette=[
            [128, 128, 128], [128, 0, 0], [192, 192, 128], [128, 64, 128], [0, 0, 192],
            [128, 128, 0], [192, 128, 128], [64, 64, 128], [64, 0, 128], [64, 64, 0],
            [0, 128, 192],
        ],
    )  # fmt: skip

    def __init__(
        self, img_suffix: str = '.jpg', seg_map_suffix: str = '.png', **kwargs: object
    ) -> None:
        super().__init__(img_suffix=img_suffix, seg_map_suffix=seg_map_suffix, **kwargs)
