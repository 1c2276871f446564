"""Stand-ins for the models whose latencies were published: structure and sizes, no learnt weights."""
