"""Calls that keep a fresh block of known size, every page of it touched; tells what `memory` and `complete` say."""

import json

import blinker

MIB = 1 << 20
SIZES = [size * MIB for size in (16, 32, 64, 16, 32, 64)]
kept, told, summed = [], [], []


def on_memory(sender, *, measurements, metadata):
    told.append(measurements["delta"])


def on_complete(sender, *, measurements, metadata):
    summed.append(measurements["memory_delta"])


blinker.signal("autoprof.memory").connect(on_memory)
blinker.signal("autoprof.complete").connect(on_complete)


def keep(size):
    kept.append(b"\x01" * size)


for each in SIZES:
    keep(each)
print(json.dumps({"sizes": SIZES, "told": told, "summed": summed}))
