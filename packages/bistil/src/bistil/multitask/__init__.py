"""A teacher that is tuned on several tasks together before anything is distilled from it."""
