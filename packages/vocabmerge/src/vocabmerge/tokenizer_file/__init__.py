"""tokenizer.json: read as the library reads it, parsed, written again with other pieces."""
