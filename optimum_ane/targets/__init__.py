"""Formats that an export can have."""
