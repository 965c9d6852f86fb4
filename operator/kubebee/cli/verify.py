"""`kubebee verify`."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kubebee.cli import options, output
from kubebee.cli.exit_codes import Exit
from kubebee.errors import KubebeeError

if TYPE_CHECKING:
    from kubebee.cli.manifests import Offline
    from kubebee.planner.report import Failure


@dataclass(frozen=True, slots=True)
class Result:
    """What is known of one resource, or of a file that holds none that could be read.

    Attributes:
        ok: it is valid, compiles, and this kernel's verifier takes it.
        stage: how far it came: Plan, Compile, Verify ..., or Running (it would run).
        warnings: what is worth knowing though nothing failed.
    """

    file: str
    kind: str
    name: str
    ok: bool
    stage: str = "Running"
    reason: str = ""
    message: str = ""
    hint: str = ""
    errno: str = ""
    log: str = ""
    warnings: tuple[str, ...] = ()
    compile_seconds: float = 0.0
    load_seconds: float = 0.0


@click.command()
@options.manifests
@options.cache
@click.option("--json", "as_json", is_flag=True, help="Print results as JSON.")
def verify(files: tuple[Path, ...], cache: Path, as_json: bool) -> None:
    """Check manifests against this kernel; attach nothing, leave nothing.

    Each resource is read, planned, compiled, and loaded into the kernel's verifier as `kubebee run` would
    load it; XDP functions behind the dispatcher. Files are checked together: conflicts between them are
    found. Interfaces and cgroups are not looked for.

    \b
    Examples:
      kubebee verify examples/xdp-block-list.yaml
      kubebee verify manifests/ --json | jq '.[] | select(.ok | not)'
      kubebee verify *.yaml && git commit
    """  # noqa: D301 (click wants the character)
    from kubebee.cli import manifests

    results = asyncio.run(_results(manifests.read(files), cache))
    if as_json:
        click.echo(output.document("json", [asdict(result) for result in results]))
    else:
        for result in results:
            click.echo(_text(result))
    sys.exit(Exit.OK if all(result.ok for result in results) else Exit.NOT_READY)


async def _results(read: Offline, cache: Path) -> list[Result]:
    from kubebee.loader.offline import Verified, Verifier, private_bpffs

    results = [
        _refused(file, key.kind if key else "", key.name if key else "", error)
        for file, key, error in read.errors
    ]
    with private_bpffs() as bpffs:
        verifier = Verifier(bpffs, cache)
        known: dict[object, Verified] = {}  # resources of one unit share its outcome
        for key, file in read.files.items():
            warnings = read.planned.warnings.get(key, ())
            if key in read.planned.refused:
                results.append(_refused(file, key.kind, key.name, read.planned.refused[key]))
                continue
            unit = read.units.get(key)
            if unit is None:
                idle = read.planned.idle.get(key, "")
                results.append(Result(file, key.kind, key.name, True, "Plan", idle, warnings=warnings))
                continue
            if unit.key not in known:
                known[unit.key] = await verifier.verify(unit)
            found = known[unit.key]
            times = (round(found.compile_seconds, 4), round(found.load_seconds, 4))
            if found.failure is not None:
                results.append(_failed(file, key.kind, key.name, found.failure, times))
            else:
                notes = (*warnings, *found.notes)
                results.append(
                    Result(
                        file,
                        key.kind,
                        key.name,
                        True,
                        warnings=notes,
                        compile_seconds=times[0],
                        load_seconds=times[1],
                    )
                )
    return results


def _refused(file: str, kind: str, name: str, error: KubebeeError) -> Result:
    message = f"{error.where}: {error.message}" if error.where else error.message
    return Result(file, kind, name, False, "Plan", error.reason, message, error.hint)


def _failed(file: str, kind: str, name: str, failure: Failure, times: tuple[float, float]) -> Result:
    return Result(
        file=file,
        kind=kind,
        name=name,
        ok=False,
        stage=failure.stage.value,
        reason=failure.reason,
        message=failure.message,
        hint=failure.hint,
        errno=failure.errno_name,
        log=failure.log,
        compile_seconds=times[0],
        load_seconds=times[1],
    )


def _text(result: Result) -> str:
    what = f"{result.kind}/{result.name}" if result.name else ""
    head = ": ".join(part for part in (result.file, what) if part)
    if result.ok:
        rest = [f"  warning: {text}" for text in result.warnings]
        if result.reason:
            return "\n".join([f"ok    {head} (not loaded: {result.reason})", *rest])
        seconds = result.compile_seconds + result.load_seconds
        return "\n".join([f"ok    {head} ({seconds * 1000:.0f} ms)", *rest])
    why = " ".join(part for part in (result.stage, result.reason, result.errno) if part)
    lines = [f"FAIL  {head}: {result.message}", f"  why:   {why}"]
    lines += [f"  do:    {result.hint}"] if result.hint else []
    return "\n".join([*lines, *(f"  | {line}" for line in result.log.strip().splitlines())])
