"""CRC-32C in NumPy, as TFRecord files need it.

A CRC without its initial and final inversion is linear over the bits: a message can be cut into
stripes, all of them advanced together as one vector, and the stripes' remainders folded pairwise.
"""

import functools

import numpy as np

_POLYNOMIAL = 0x82F63B78  # Castagnoli's, bits reversed
_STRIPE = 64  # bytes of a message in one lane of the vector
_TOGETHER = 1 << 18  # bytes of messages whose vectors still stay in the processor's cache
_ALL_ONES = 0xFFFFFFFF


def crc32c(data):
    """CRC-32C (Castagnoli; RFC 3720, appendix B.4) of bytes, as an int."""
    if len(data) < _STRIPE:
        return _bytewise(data)
    return int(_remainders([data])[0]) ^ _ALL_ONES


def crc32c_all(messages):
    """[crc32c(data) for data in messages], many short messages at once."""
    result = []
    for group in _groups(messages):
        if min(map(len, group)) < _STRIPE:
            result += map(crc32c, group)
        else:
            result += (_remainders(group) ^ np.uint32(_ALL_ONES)).tolist()
    return result


def _groups(messages):
    """Yield runs of messages that take _TOGETHER bytes at most, or single ones, when all are as
    long as their longest."""
    group, longest = [], 0
    for data in messages:
        longest = max(longest, len(data))
        if group and longest * (len(group) + 1) > _TOGETHER:
            yield group
            group, longest = [], len(data)
        group.append(data)
    if group:
        yield group


def masked_crc32c(data):
    """The TFRecord format's checksum: CRC-32C rotated right by 15 bits, plus a constant."""
    return _mask(crc32c(data))


def masked_crc32c_all(messages):
    """[masked_crc32c(data) for data in messages], many short messages at once."""
    return [_mask(crc) for crc in crc32c_all(messages)]


def _mask(crc):
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & _ALL_ONES


def _remainders(messages):
    """uint32 [n]: the last states of n messages of four bytes or more, before the final inversion.
    """
    num_stripes = -(-max(map(len, messages)) // _STRIPE)
    padded = np.zeros((len(messages), num_stripes * _STRIPE), np.uint8)
    for row, data in zip(padded, messages):
        padding = len(row) - len(data)  # zeros in front change nothing
        row[padding:] = np.frombuffer(data, np.uint8)
        row[padding:padding + 4] ^= 0xFF  # the initial inversion
    lanes = np.ascontiguousarray(padded.view("<u4").reshape(-1, _STRIPE // 4).T)
    state = np.zeros(lanes.shape[1], np.uint32)
    for words in lanes:
        state = _advance(_tables(1), state ^ words)
    return _fold(state.reshape(len(messages), num_stripes), len(lanes))


def _bytewise(data):
    """The definition, byte by byte: quicker than vectors where the data are short."""
    table, state = _byte_list(), _ALL_ONES
    for byte in data:
        state = state >> 8 ^ table[(state ^ byte) & 0xFF]
    return state ^ _ALL_ONES


def _fold(state, num_words):
    """Remainders uint32 [n, pieces] of consecutive pieces of `num_words` words -> [n], those of
    the wholes."""
    while state.shape[1] > 1:
        if state.shape[1] % 2:
            front = np.zeros((len(state), 1), np.uint32)
            state = np.concatenate([front, state], axis=1)
        state = _advance(_tables(num_words), state[:, 0::2]) ^ state[:, 1::2]
        num_words *= 2
    return state[:, 0]


def _advance(tables, state):
    """States uint32 [...] after the zeros that the tables stand for."""
    low, high = tables
    # Every index is in range: "clip" saves the check.
    return low.take(state & 0xFFFF, mode="clip") ^ high.take(state >> 16, mode="clip")


@functools.lru_cache(maxsize=1)
def _byte_table():
    """uint32 [256]: the state after one byte."""
    state = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        state = state >> 1 ^ np.where(state & 1, np.uint32(_POLYNOMIAL), np.uint32(0))
    return state


@functools.lru_cache(maxsize=1)
def _byte_list():
    return _byte_table().tolist()


@functools.lru_cache(maxsize=64)
def _tables(num_words):
    """What a state's low and high half, uint32 [65536] each, become after so many words of zeros.

    `num_words` is a power of two.
    """
    if num_words > 1:
        half = _tables(num_words // 2)
        return tuple(_advance(half, table) for table in half)
    halves = np.arange(65536, dtype=np.uint32), np.arange(65536, dtype=np.uint32) << np.uint32(16)
    for _ in range(4):
        halves = [state >> 8 ^ _byte_table()[state & 0xFF] for state in halves]
    return tuple(halves)
