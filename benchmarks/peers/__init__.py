"""One decayed counter per user in other stream processors. Each file runs by itself, in an environment that has that processor alone."""
