"""The ids that came before, in 12 to 24 bytes each whatever their length: a corpus may have a hundred million."""

from __future__ import annotations

from array import array
from hashlib import blake2b

FIRST_SLOTS = 1 << 12


class SeenIds:
    """A set of strings that can only grow: an open-addressed table of their 64-bit digests.

    Two different ids share a digest with probability n² / 2⁶⁵: one in 400,000 for ten million documents.
    """

    def __init__(self) -> None:
        self._slots = array("Q", bytes(8 * FIRST_SLOTS))
        self._used = 0

    def __len__(self) -> int:
        return self._used

    def add(self, identifier: str) -> bool:
        """Remembers an id; False where it came before."""
        digest = int.from_bytes(blake2b(identifier.encode("utf-8", "surrogatepass"), digest_size=8).digest()) or 1
        if not self._place(self._slots, digest):
            return False
        self._used += 1
        if 3 * self._used > 2 * len(self._slots):
            larger = array("Q", bytes(16 * len(self._slots)))
            for old in self._slots:
                if old:
                    self._place(larger, old)
            self._slots = larger
        return True

    @staticmethod
    def _place(slots: array[int], digest: int) -> bool:
        mask = len(slots) - 1
        slot = digest & mask
        while found := slots[slot]:
            if found == digest:
                return False
            slot = (slot + 1) & mask
        slots[slot] = digest
        return True
