"""Looks into packages: what runs, how long it takes, and what the values in between are."""
