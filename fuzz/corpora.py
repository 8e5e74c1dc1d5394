#!/usr/bin/env python3
"""Corpora of the fuzzers as one file each: inputs, each behind its length in two bytes, the higher one first.

corpora.py unpack TARGET    fuzz/corpora/TARGET.bin becomes the files of fuzz/corpus/TARGET/
corpora.py pack TARGET      the other way, up to 64 KB: what was packed before, then the smallest inputs
"""

import hashlib
import pathlib
import sys

HERE = pathlib.Path(__file__).parent
LIMIT = 64_000


def inputs(corpus):
    while corpus:
        length = int.from_bytes(corpus[:2], "big")
        yield corpus[2 : 2 + length]
        corpus = corpus[2 + length :]


def unpack(target):
    folder = HERE / "corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    packed = HERE / "corpora" / f"{target}.bin"
    for text in inputs(packed.read_bytes() if packed.exists() else b""):
        (folder / hashlib.sha1(text).hexdigest()).write_bytes(text)


def pack(target):
    file = HERE / "corpora" / f"{target}.bin"
    before = set(inputs(file.read_bytes())) if file.exists() else set()
    found = {file.read_bytes() for file in (HERE / "corpus" / target).iterdir()}
    texts = sorted(before | found, key=lambda text: (text not in before, len(text), text))
    packed = b""
    kept = 0
    for text in texts:
        if len(text) < 1 << 16 and len(packed) + 2 + len(text) <= LIMIT:
            packed += len(text).to_bytes(2, "big") + text
            kept += 1
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(packed)
    print(f"{target}: {kept} of {len(texts)} inputs, {len(packed)} bytes")


if __name__ == "__main__":
    {"pack": pack, "unpack": unpack}[sys.argv[1]](sys.argv[2])
