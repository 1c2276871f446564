"""The measurements that `make verify` takes, one module for each group of rows."""
