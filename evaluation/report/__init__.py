"""The report: the result of an evaluation, or the comparison of two, as one HTML file or as Markdown."""
