"""``python -m benchmarks.gpu``: correctness, time and memory of every mechanism and of published networks on an accelerator, in at most eight minutes."""
