"""GPU kernels that Triton cannot express: CUDA sources, compiled when they are first needed."""
