"""What tools/benchmark.py runs: nothing is timed that has not first been verified.

train: a training step. cpu: packed models against what users would pick instead. kernels: each matrix
kernel by itself. worker.py runs apart, without torch or mmseg unless a contender needs them.
"""
