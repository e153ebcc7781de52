from .residual_laplacian_head import ResidualLaplacianHead

__all__ = ['ResidualLaplacianHead']
