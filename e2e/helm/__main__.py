"""python -m helm build | manifests | check: Helm, what is generated from the chart, whether it is current."""

from __future__ import annotations

import argparse
import sys

from helm.binaries import MAJORS, ROOT, build
from helm.errors import HelmError
from helm.manifests import files


def main() -> int:
    """Exit code 0: done, or current; 1: not."""
    parser = argparse.ArgumentParser(prog="python -m helm", description=__doc__)
    parser.add_argument("verb", choices=("build", "manifests", "check"))
    verb: str = parser.parse_args().verb
    try:
        if verb == "build":
            for major in MAJORS:
                print(build(major))
            return 0
        made = files(build(MAJORS[-1]))
    except HelmError as error:
        print(f"helm: {error}", file=sys.stderr)
        return 1
    stale = [path for path, text in made.items() if not _is(path, text)]
    for path in stale:
        print(path)
        if verb == "manifests":
            (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
            (ROOT / path).write_text(made[path])
    return 1 if verb == "check" and stale else 0


def _is(path: object, text: str) -> bool:
    file = ROOT / str(path)
    return file.exists() and file.read_text() == text


if __name__ == "__main__":
    sys.exit(main())
