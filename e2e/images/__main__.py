"""python -m images build | compare: the images of this tree, and whether two builds are the same."""

from __future__ import annotations

import argparse
import shutil
import sys
import time

from images.build import CACHE, Image, build
from images.errors import ImageError
from images.layers import compare


def main() -> int:
    """Exit code 0: done, and the same; 1: not."""
    parser = argparse.ArgumentParser(prog="python -m images", description=__doc__)
    parser.add_argument("verb", choices=("build", "compare"))
    verb: str = parser.parse_args().verb
    try:
        if verb == "build":
            start = time.monotonic()
            for image in build():
                print(f"{image.name}  {image.size / 1e6:.0f} MB  {image.archive}")
            print(f"images: {time.monotonic() - start:.1f} s")
            return 0
        first = build()
        differences = _built_again(first)
    except ImageError as error:
        print(f"images: {error}", file=sys.stderr)
        return 1
    print("\n".join(differences) or "images: two builds have the same layers")
    return 1 if differences else 0


def _built_again(first: list[Image]) -> list[str]:
    """Build everything anew, the base too, and tell what differs, a line each."""
    cache = CACHE / "again"
    shutil.rmtree(cache, ignore_errors=True)
    try:
        second = build(cache=cache, fresh=True)
        if first[0].inputs != second[0].inputs:
            raise ImageError("the tree was edited between the two builds: compare again")
        return [line for one, other in zip(first, second, strict=True) for line in compare(one, other)]
    finally:
        shutil.rmtree(cache, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
