"""Where originals come from: configuration, weights, tokenizer and the source's own card."""
