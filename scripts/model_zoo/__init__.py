"""The parts of `scripts/zoo.py`: the list of models, jobs and their records, and what runs them."""
