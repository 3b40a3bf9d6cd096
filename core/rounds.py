"""Slices of a growing table, again and again."""


class Rounds:
    """Where a walk over all rows stands. State: the next row; it goes on over restarts, or frequent ones would favour the first rows."""

    def __init__(self) -> None:
        self.next_row = 0

    def take(self, rows: int, end: int) -> tuple[slice, bool]:
        """The next `rows` rows below `end`, and whether they were the last of the round."""
        start = min(self.next_row, end)
        stop = min(start + rows, end)
        self.next_row = stop if stop < end else 0
        return slice(start, stop), stop == end
