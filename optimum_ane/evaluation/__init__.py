"""Accuracy on a dataset: what the package scores beside what the original scores."""
