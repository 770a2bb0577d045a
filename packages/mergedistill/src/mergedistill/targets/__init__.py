"""What teachers say of masked words, recorded or asked online, in the student's vocabulary."""
