"""How fast a package is, beside the original in PyTorch and a stock-layout conversion of the same checkpoint."""
