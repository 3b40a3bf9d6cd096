"""What is learned: SUPA, the dynamic tokenizer, parameter tables and the cache that serves them."""
