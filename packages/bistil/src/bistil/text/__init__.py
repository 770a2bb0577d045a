"""Raw text of each language as blocks of token ids, and batches of them."""
