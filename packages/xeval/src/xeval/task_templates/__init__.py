"""What tasks are made of: examples to rows of sub-words, batches, heads, decoding and counts per item."""
