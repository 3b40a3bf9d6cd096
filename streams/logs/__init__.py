"""Logged streams as files: how their rows become events (`mapping`), and how they are read in order (`reader`)."""
