"""Packages on the Hugging Face Hub."""
