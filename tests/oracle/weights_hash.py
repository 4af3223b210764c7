#!/usr/bin/env python3
"""Prints the weights_hash of an exported model.safetensors (docs/FORMATS.md), written from the format's description
alone: an independent check of `planaria export`. Needs libxxhash, no packages.

    tests/oracle/weights_hash.py OUT/model.safetensors
"""
import ctypes
import json
import struct
import sys


class Digest(ctypes.Structure):
    _fields_ = [("low", ctypes.c_uint64), ("high", ctypes.c_uint64)]


xxhash = ctypes.CDLL("libxxhash.so.0")
xxhash.XXH3_128bits.restype = Digest
xxhash.XXH3_128bits.argtypes = [ctypes.c_char_p, ctypes.c_size_t]


def hash128(data):
    digest = xxhash.XXH3_128bits(data, len(data))
    return digest.high, digest.low


def weights_hash(path):
    with open(path, "rb") as file:
        content = file.read()
    (length,) = struct.unpack_from("<Q", content)
    header = json.loads(content[8 : 8 + length])
    header.pop("__metadata__", None)
    data = content[8 + length :]
    listing = b""
    for name in sorted(header, key=lambda text: text.encode()):
        shape = header[name]["shape"]
        begin, end = header[name]["data_offsets"]
        listing += struct.pack("<Q", len(name.encode())) + name.encode()
        listing += struct.pack(f"<Q{len(shape)}Q", len(shape), *shape)
        listing += struct.pack("<QQ", *hash128(data[begin:end]))
    return "%016x%016x" % hash128(listing)


if __name__ == "__main__":
    print(weights_hash(sys.argv[1]))
