"""Stock decoders of transformers with their cache in one state, for programs of fixed shape."""

from optimum_ane.exporters.cached_decoder.module import CachedDecoder

__all__ = ["CachedDecoder"]
