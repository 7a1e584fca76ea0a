"""Callbacks of a run: how far it is."""


class Callbacks:
    """Base class, which does nothing."""

    def checked(self, unit_count: int) -> None:
        """Take in that so many more units were compared with the ledger."""

    def kept(self, unit_count: int, nbytes: int) -> None:
        """Take in how many units, of how many bytes, need not be written again."""

    def written(self, unit: int) -> None:
        """Take in that a unit is written."""
