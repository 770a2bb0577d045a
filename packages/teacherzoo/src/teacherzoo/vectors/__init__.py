"""What a sentence encoder makes of each line of a text, recorded once."""
