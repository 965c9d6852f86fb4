"""The chart's README: its values, by the comments of values.yaml."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

_KEY = re.compile(r"(?P<indent> *)(?P<key>[A-Za-z0-9]+):")
_INDENT = 2
_HEAD = """\
<!-- Generated from values.yaml by `make manifests`; change the comments there, not this file. -->
# kubebee

The operator and its loaders: see [installing](../../docs/install.md), [operating](../../docs/operations.md)
and [security](../../docs/security.md). Works with Helm 3 and 4, on Kubernetes 1.30 and newer.

```sh
helm install kubebee charts/kubebee --namespace kubebee-system --create-namespace
helm test kubebee --namespace kubebee-system
```

Names are fixed: a cluster has one kubebee, as each node has one kernel.

## Values

`values.schema.json` refuses names that do not exist and values that can't be.

| Value | Default | Meaning |
| --- | --- | --- |
"""


@dataclass(frozen=True)
class Value:
    """A documented value.

    Attributes:
        path: such as `loader.image.repository`.
        default: as in values.yaml.
        meaning: the comment before it.
    """

    path: str
    default: Any
    meaning: str


def values(text: str) -> Iterator[Value]:
    """The values of a values.yaml that have a comment right before them.

    Args:
        text: its content; keys are indented by two spaces each.

    Raises:
        KeyError: a comment stands before something that is not a value.
    """
    tree = yaml.safe_load(text)
    path: list[str] = []
    comment: list[str] = []
    for line in text.splitlines():
        if line.strip().startswith("#"):
            comment.append(line.strip().removeprefix("#").strip())
            continue
        found = _KEY.match(line)
        if found:
            path = [*path[: len(found["indent"]) // _INDENT], found["key"]]
            if comment:
                yield Value(".".join(path), _at(tree, path), " ".join(comment))
        comment = []


def undocumented(text: str) -> list[str]:
    """Paths of values.yaml that neither have a comment nor are below or above one."""
    known = [value.path for value in values(text)]
    return [
        leaf
        for leaf in _leaves(yaml.safe_load(text), ())
        if not any(leaf == path or leaf.startswith(f"{path}.") for path in known)
    ]


def readme(chart: Path) -> str:
    """The whole README.md of a chart."""
    rows = [
        f"| `{value.path}` | `{json.dumps(value.default)}` | {value.meaning.replace('|', '&#124;')} |\n"
        for value in values((chart / "values.yaml").read_text())
    ]
    return _HEAD + "".join(rows)


def _at(tree: Any, path: list[str]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _leaves(tree: dict[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, (*path, key))
        else:
            yield ".".join((*path, key))
