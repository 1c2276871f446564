"""Whole jobs: export, compress, evaluate, sweep, publish, benchmark, run."""
