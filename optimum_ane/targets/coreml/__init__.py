"""From a torch module to an ML Program."""
