"""Whether it answers as the original does."""
