"""Kernels for training on a CPU, with backward passes written by hand; `bridgeflow.nn.ops` says when they are taken."""
