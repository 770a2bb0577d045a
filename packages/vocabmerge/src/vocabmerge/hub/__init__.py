"""The Hugging Face Hub: models fetched from it, folders pushed to it, texts streamed from it."""
