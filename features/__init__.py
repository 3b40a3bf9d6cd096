"""What is true now: counters, sequences, popularity, duplicates, and the store that keeps them."""
