from optimum_ane.checkpoints.source import HubOptions  # SHIM

__all__ = ["HubOptions"]
