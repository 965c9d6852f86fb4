"""`kubebee crds`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from kubebee.cli.exit_codes import Exit


@click.command()
@click.option("--check", is_flag=True, help="Write nothing; say what is out of date and exit with 3.")
@click.option(
    "--output-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("crds"),
    show_default=True,
    help="Folder of the CustomResourceDefinitions.",
)
@click.option(
    "--reference",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("docs/reference.md"),
    show_default=True,
    help="File of the reference for people.",
)
def crds(check: bool, output_dir: Path, reference: Path) -> None:
    """Write the CustomResourceDefinitions and their reference, both made from the models.

    \b
    Examples:
      kubebee crds                                       in the source tree
      kubebee crds --check                               in continuous integration
      kubebee crds --output-dir . --reference ref.md     anywhere
    """  # noqa: D301 (click wants the character)
    from kubebee.api import crd
    from kubebee.api import reference as pages

    if check:
        drift = [*crd.check(output_dir), *pages.drift(reference)]
        for difference in drift:
            click.echo(f"{difference}: run `kubebee crds`", err=True)
        sys.exit(Exit.NOT_READY if drift else Exit.OK)
    output_dir.mkdir(parents=True, exist_ok=True)
    crd.write(output_dir)
    reference.parent.mkdir(parents=True, exist_ok=True)
    reference.write_text(pages.markdown())
    click.echo(f"wrote {output_dir}/ and {reference}", err=True)
