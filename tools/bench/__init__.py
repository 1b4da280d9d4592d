"""Benchmarks: what sspruning achieves, each case against its baseline in the same run. `run.py` is the program."""
