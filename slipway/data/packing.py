"""Documents placed into sequences of one length, as few as possible."""

from bisect import bisect_left, insort
from collections.abc import Sequence


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Best-fit decreasing: the longest document first, each into the fullest pack that still holds it.

    Gives document indices by pack. The same lengths give the same packs everywhere.
    """
    packs: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (tokens left, pack), sorted
    for document in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        place = bisect_left(room, (lengths[document], -1))
        if place < len(room):
            left, number = room.pop(place)
        else:
            left, number = capacity, len(packs)
            packs.append([])
        packs[number].append(document)
        insort(room, (left - lengths[document], number))
    return packs
