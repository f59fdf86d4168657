"""CRC-32C in NumPy, as TFRecord files need it.

A CRC without its initial and final inversion is linear over the bits: a message can be cut into
stripes, all of them advanced together as one vector, and the stripes' remainders folded pairwise.
"""

import functools

import numpy as np

_POLYNOMIAL = 0x82F63B78  # Castagnoli's, bits reversed
_STRIPE = 64  # bytes of a message in one lane of the vector
_ALL_ONES = 0xFFFFFFFF


def crc32c(data):
    """CRC-32C (Castagnoli; RFC 3720, appendix B.4) of bytes, as an int."""
    if len(data) < _STRIPE:
        return _bytewise(data)
    num_stripes = -(-len(data) // _STRIPE)
    padding = num_stripes * _STRIPE - len(data)  # zeros in front change nothing
    message = np.zeros(num_stripes * _STRIPE, np.uint8)
    message[padding:] = np.frombuffer(data, np.uint8)
    message[padding:padding + 4] ^= 0xFF  # the initial inversion
    lanes = np.ascontiguousarray(message.view("<u4").reshape(num_stripes, -1).T)
    state = np.zeros(num_stripes, np.uint32)
    for words in lanes:
        state = _advance(_tables(1), state ^ words)
    return int(_fold(state, len(lanes))) ^ _ALL_ONES


def masked_crc32c(data):
    """The TFRecord format's checksum: CRC-32C rotated right by 15 bits, plus a constant."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & _ALL_ONES


def _bytewise(data):
    """The definition, byte by byte: quicker than vectors where the data are short."""
    table, state = _byte_list(), _ALL_ONES
    for byte in data:
        state = state >> 8 ^ table[(state ^ byte) & 0xFF]
    return state ^ _ALL_ONES


def _fold(state, num_words):
    """Remainders uint32 [n] of consecutive pieces of `num_words` words -> the whole's remainder."""
    while len(state) > 1:
        if len(state) % 2:
            state = np.concatenate([np.zeros(1, np.uint32), state])
        state = _advance(_tables(num_words), state[0::2]) ^ state[1::2]
        num_words *= 2
    return state[0]


def _advance(tables, state):
    """States uint32 [...] after the zeros that the tables stand for."""
    low, high = tables
    return low[state & 0xFFFF] ^ high[state >> 16]


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
