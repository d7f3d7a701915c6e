"""Damaged copies of CT files: bits flipped, ends cut, lengths swapped; the same for one seed."""

from __future__ import annotations

import random


def flip_bits(data: bytes, rng: random.Random) -> bytes:
    """One to eight flipped bits, most of them in the header."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        reach = len(out) if rng.random() < 0.3 else min(len(out), 4096)
        out[rng.randrange(reach)] ^= 1 << rng.randrange(8)
    return bytes(out)


def cut_end(data: bytes, rng: random.Random) -> bytes:
    """Some of the end is gone, or nearly all of it."""
    return data[: rng.randrange(len(data))] if rng.random() < 0.5 else data[: -rng.randint(1, 200)]


def swap_lengths(data: bytes, rng: random.Random) -> bytes:
    """Two or four bytes of the header become a length that is not true."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(128, max(129, min(len(out) - 4, 4096)))
        size = rng.choice((2, 4))
        value = rng.choice((0, 1, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF, len(out)))
        out[at : at + size] = (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")
    return bytes(out)


def swap_blocks(data: bytes, rng: random.Random) -> bytes:
    """Two stretches of bytes change places."""
    size = rng.randint(1, max(2, min(512, len(data) // 8)))
    reach = max(size + 1, min(len(data), 8192) - size)
    first, second = sorted((rng.randrange(reach), rng.randrange(reach)))
    if second - first < size:
        return data[:first] + data[first + size :]
    middle = data[first + size : second]
    return (
        data[:first]
        + data[second : second + size]
        + middle
        + data[first : first + size]
        + data[second + size :]
    )


MUTATIONS = (flip_bits, cut_end, swap_lengths, swap_blocks)


def mutate(data: bytes, seed: int) -> bytes:
    """One damaged copy of `data`."""
    rng = random.Random(seed)
    return MUTATIONS[seed % len(MUTATIONS)](data, rng)
