"""Random ML Programs with their meaning in numpy; see `fuzz_portable_programs.py`."""
