"""Measure a cold start, for benchmarks.train_step: from the start of a process to its first turn at
64x64, and to the first turn at the next resolution, which is traced again. Print a line of JSON."""

import json
import sys
import time

RESOLUTION, NEXT, MINIBATCH, NUM_CHANNELS = 64, 128, 4, 3


def main(fmap_base, fmap_max):
    """Measure with networks of these widths."""
    begun = time.perf_counter()
    from benchmarks import turns
    from training.config import TrainingConfig

    imported = time.perf_counter()
    config = TrainingConfig(variant="rgb", resolution=NEXT, fmap_base=fmap_base, fmap_max=fmap_max)
    side = turns.Side(config, NUM_CHANNELS, RESOLUTION, MINIBATCH)
    made = time.perf_counter()
    side.run(turns.constant_reals(NUM_CHANNELS, RESOLUTION, MINIBATCH))
    first = time.perf_counter()
    side.turn = side.make_turn(NEXT, fading=True)
    side.run(turns.constant_reals(NUM_CHANNELS, NEXT, MINIBATCH))
    grown = time.perf_counter()
    print(json.dumps({
        "resolution": RESOLUTION, "next_resolution": NEXT, "minibatch": MINIBATCH,
        "import_sec": round(imported - begun, 1), "networks_sec": round(made - imported, 1),
        "first_turn_sec": round(first - made, 1), "until_first_turn_sec": round(first - begun, 1),
        "next_resolution_sec": round(grown - first, 1)}))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
