"""A package on disk: what is in it, what its manifest says, and how it comes into being. The bottom of the library."""
