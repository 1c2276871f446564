"""The graph pass that rewrites a program into the Neural Engine's layout."""
