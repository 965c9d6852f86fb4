"""BpfProgram to what a node shall run."""

from __future__ import annotations

from collections.abc import Mapping

from kubebee.api.v1alpha1.bpfprogram import BpfProgram, ConfigMapSource, Source
from kubebee.errors import KubebeeError, NotImplementedYetError
from kubebee.planner.declared import Declared, Inputs
from kubebee.planner.plan import Bundle, FunctionPlan, ProgramUnit, Toolchain

_TOOLCHAINS = {None: Toolchain.CLANG, "Clang": Toolchain.CLANG, "Bcc": Toolchain.BCC}


class SourceError(KubebeeError):
    """The source that a resource refers to can't be had."""

    reason = "SourceNotFound"
    may_pass = True


def check(program: BpfProgram) -> None:
    """Refuse what this version does not act on.

    Raises:
        NotImplementedYetError: naming the field.
    """
    for index, function in enumerate(program.spec.programs):
        if function.attach.type == "TC" and function.proceed_on:
            raise NotImplementedYetError(
                "at tc the program's own verdict decides: -1 lets the next program run, others end the chain",
                where=f"spec.programs[{index}].proceedOn",
                hint="return -1 (TCX_NEXT) where the next program shall run, and leave proceedOn out",
            )
    if program.spec.toolchain == "Bcc" and program.spec.globals:
        raise NotImplementedYetError(
            "the BCC dialect has no global variables that could be set", where="spec.globals"
        )


def unit(declared: Declared, program: BpfProgram, inputs: Inputs) -> ProgramUnit:
    """What a node runs for `program`.

    Raises:
        SourceError: its ConfigMap is missing.
        KubebeeError: its template can't be rendered.
    """
    functions = tuple(
        FunctionPlan(
            name=function.name,
            attach=function.attach,
            priority=function.priority,
            proceed_on=tuple(verdict.upper() for verdict in function.proceed_on),
        )
        for function in program.spec.programs
    )
    return ProgramUnit(
        key=declared.key,
        generation=declared.generation,
        bundle=_bundle(declared, program, inputs),
        functions=functions,
        globals=program.spec.globals,
    )


def _bundle(declared: Declared, program: BpfProgram, inputs: Inputs) -> Bundle:
    source: Source = program.spec.source
    filename = f"{declared.key.name}.c"
    if source.object is not None:
        return Bundle(
            toolchain=Toolchain.OBJECT,
            source=source.object.base64 or "",
            filename=source.object.path or f"{declared.key.name}.o",
            path=source.object.path or "",
            sha256=source.object.sha256 or "",
        )
    toolchain = _TOOLCHAINS[program.spec.toolchain]
    if declared.rendered is not None:
        return Bundle(toolchain, declared.rendered.text, filename, line_map=declared.rendered.line_map)
    if source.template is not None:
        rendered = inputs.render(source.template)
        return Bundle(toolchain, rendered.text, filename, line_map=rendered.line_map)
    text = source.inline
    if source.config_map is not None:
        text = _from_config_map(source.config_map, inputs.config_maps)
    assert text is not None
    return Bundle(toolchain, text, filename)


def _from_config_map(wanted: ConfigMapSource, known: Mapping[tuple[str, str], Mapping[str, str]]) -> str:
    where = f"ConfigMap {wanted.namespace}/{wanted.name}"
    data = known.get((wanted.namespace, wanted.name))
    if data is None:
        raise SourceError("there is no such ConfigMap", where=where, hint="add it, or correct its name")
    if wanted.key not in data:
        raise SourceError(
            f"it has no key {wanted.key!r}",
            where=where,
            hint=f"it has {', '.join(sorted(data)) or 'no keys'}",
        )
    return data[wanted.key]
