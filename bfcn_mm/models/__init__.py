from .packed_segmentor import PackedSegmentor
from .residual_laplacian_head import ResidualLaplacianHead

__all__ = ['PackedSegmentor', 'ResidualLaplacianHead']
