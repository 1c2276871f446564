"""Where originals come from: configuration, weights, tokenizer, and what stands beside them."""
