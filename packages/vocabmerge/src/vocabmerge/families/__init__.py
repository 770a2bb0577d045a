"""What differs between tokenizer models: the key, role and spelling of a piece."""
