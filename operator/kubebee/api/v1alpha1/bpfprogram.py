"""BpfProgram: a program of the user's own, from its source to where it is attached."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from kubebee.api.v1alpha1.attach import Attach
from kubebee.api.v1alpha1.common import (
    BASE64_PATTERN,
    LATER,
    ApiModel,
    Bool,
    FilePath,
    Identifier,
    Int,
    Label,
    LabelValues,
    Line,
    Names,
    Resource,
    Rule,
    RuledModel,
    Sha256,
    Subdomain,
    Word,
    exactly_one,
    later,
    list_map,
)
from kubebee.api.v1alpha1.rollout import Rollout
from kubebee.api.v1alpha1.status import CommonStatus
from kubebee.api.v1alpha1.values import FreeValue

MAX_SOURCE = 512 * 1024
# A bundle travels in a ConfigMap, which ends at 1 MiB; larger objects come from the node's disk or an image.
MAX_OBJECT_BASE64 = 896 * 1024

SourceText = Annotated[str, Field(min_length=1, max_length=MAX_SOURCE)]
Params = Annotated[dict[Identifier, FreeValue], Field(max_length=128)]
Percent = Annotated[Int, Field(ge=1, le=100)]


class TemplateSource(RuledModel):
    """A Jinja template and its parameters."""

    rules: ClassVar[tuple[Rule, ...]] = (exactly_one("name", "inline"),)

    name: Label | None = None
    """A template that comes with kubebee, see `kubebee template list`."""
    inline: SourceText | None = None
    """Text of a template of your own; it runs in a sandbox."""
    params: Params = Field(default_factory=dict)
    """Values for the names in the template."""


class ConfigMapSource(ApiModel):
    """Source in a key of a ConfigMap."""

    name: Subdomain
    """Name of the ConfigMap."""
    namespace: Label
    """Its namespace."""
    key: Annotated[str, Field(min_length=1, max_length=253)]
    """Key that holds the source."""


class ObjectSource(RuledModel):
    """A compiled ELF object for the BPF machine."""

    rules: ClassVar[tuple[Rule, ...]] = (
        exactly_one("path", "base64", "image"),
        Rule(
            "has(self.image) || has(self.sha256)",
            "sha256 must be set, so that every node runs the same code",
            lambda self: self.image is not None or self.sha256 is not None,
        ),
    )

    path: FilePath | None = None
    """File on the node."""
    base64: Annotated[str, Field(pattern=BASE64_PATTERN, max_length=MAX_OBJECT_BASE64)] | None = None
    """The file itself, in base64."""
    sha256: Sha256 | None = None
    """SHA-256 of the file, in lower-case hexadecimal."""
    image: Annotated[Line | None, LATER] = None
    """OCI image that holds the file, by digest."""


class Source(RuledModel):
    """Where the code comes from."""

    rules: ClassVar[tuple[Rule, ...]] = (exactly_one("inline", "template", "config_map", "object"),)

    inline: SourceText | None = None
    """The source itself."""
    template: TemplateSource | None = None
    """A Jinja template that makes the source."""
    config_map: ConfigMapSource | None = None
    """The source in a ConfigMap."""
    object: ObjectSource | None = None
    """A compiled object."""


Verdict = Literal["Aborted", "Drop", "Pass", "Tx", "Redirect", "Unspec", "Ok", "Shot", "Pipe", "Stolen"]


class Function(RuledModel):
    """One function of the object and where it is attached."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.proceedOn) || self.proceedOn.size() == 0 || self.attach.type in ['XDP', 'TC']",
            "proceedOn is for the attach types XDP and TC only",
            lambda self: not self.proceed_on or self.attach.type in ("XDP", "TC"),
        ),
    )

    name: Identifier
    """Function in the source; for StructOps, the map."""
    attach: Attach
    """Where it is attached."""
    priority: Annotated[Int, Field(ge=0, le=1000)] = 500
    """Order among the programs at one interface and direction: lower runs first."""
    proceed_on: Annotated[tuple[Verdict, ...], Field(max_length=10)] = ()
    """Verdicts after which the next program runs. Default: Pass. Not for TC: it goes on after -1."""


class MapEntry(ApiModel):
    """One key of a map and its value."""

    key: FreeValue
    """Key, typed by the map's BTF."""
    value: FreeValue
    """Value, typed by the map's BTF."""


class MapSpec(ApiModel):
    """What a map of the program holds, and who else may use it."""

    name: Identifier
    """Map in the source."""
    entries: Annotated[tuple[MapEntry, ...], Field(max_length=1000)] = ()
    """Contents; what differs on a node is repaired."""
    share: Label | None = None
    """Programs that give this name share one map."""
    read_only_export: Bool = False
    """Let pods without root read it."""


class MetricSpec(ApiModel):
    """A Prometheus metric made from a map."""

    name: Annotated[str, Field(pattern="^[a-z_][a-z0-9_]*$", max_length=128)]
    """Name of the metric."""
    map: Identifier
    """Map that it reads."""
    type: Literal["Counter", "Gauge", "Histogram"]
    """Kind of metric."""
    help: Line = ""
    """What it counts."""
    labels: Annotated[dict[Identifier, Line], Field(max_length=16)] = Field(default_factory=dict)
    """Labels, each with the field of the key that fills it."""
    max_series: Annotated[Int, Field(ge=1, le=100000)] = 1000
    """Series above this number are left out, and counted."""


class EventSpec(ApiModel):
    """A ring buffer or perf buffer whose records go somewhere."""

    map: Identifier
    """The buffer."""
    type: Identifier
    """C structure of a record."""
    sink: Literal["Log", "JSONLines", "OpenTelemetry"] = "Log"
    """Where records go."""
    per_second: Annotated[Int, Field(ge=1, le=1000000)] = 1000
    """Records above this rate are dropped, and counted."""


class OverheadBudget(ApiModel):
    """Run time that the program may use."""

    cpu_percent: Percent
    """Per cent of one processor."""
    action: Literal["Alert", "Detach"] = "Alert"
    """What happens above it."""


class BpfProgramSpec(RuledModel):
    """What runs, and where."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.source.object) || !has(self.toolchain)",
            "toolchain is for source code; leave it out for a compiled object",
            lambda self: self.source.object is None or self.toolchain is None,
        ),
        Rule(
            "(has(self.programs) && self.programs.size() > 0)"
            " || (has(self.toolchain) && self.toolchain == 'Bpftrace')",
            "programs must name at least one function",
            lambda self: bool(self.programs) or self.toolchain == "Bpftrace",
        ),
    )

    source: Source
    """Where the code comes from."""
    toolchain: Annotated[Literal["Clang", "Bcc", "Bpftrace"] | None, later("Bpftrace")] = None
    """Dialect and compiler. Default: Clang (libbpf, CO-RE)."""
    programs: Annotated[tuple[Function, ...], Field(max_length=64)] = ()
    """Functions and where each is attached."""
    globals: Params = Field(default_factory=dict)
    """Global variables of the program by name, typed by its BTF: numbers, booleans, names of enum values,
    addresses, strings, lists, and objects for structures."""
    maps: Annotated[tuple[MapSpec, ...], Field(max_length=64, json_schema_extra=list_map("name")), LATER] = ()
    """What maps of the program hold."""
    metrics: Annotated[
        tuple[MetricSpec, ...], Field(max_length=64, json_schema_extra=list_map("name")), LATER
    ] = ()
    """Prometheus metrics made from maps."""
    events: Annotated[
        tuple[EventSpec, ...], Field(max_length=16, json_schema_extra=list_map("map")), LATER
    ] = ()
    """Buffers whose records go somewhere."""
    node_selector: LabelValues = Field(default_factory=dict)
    """Labels of the nodes it is for; none given: all nodes."""
    rollout: Rollout | None = None
    """How a new generation reaches the nodes of a cluster; one machine without a cluster takes it at once."""
    overhead_budget: Annotated[OverheadBudget | None, LATER] = None
    """Run time that it may use."""
    suspend: Bool = False
    """Unload it everywhere, and keep the object."""


class BpfProgramStatus(CommonStatus):
    """State of the program over all nodes."""

    code_hash: Word = ""
    """Digest of the code that the spec asks for."""


class BpfProgram(Resource):
    """A BPF program of your own: kubebee compiles, verifies, loads and attaches it on every chosen node."""

    names: ClassVar[Names] = Names(plural="bpfprograms", short="bpfp")

    kind: Literal["BpfProgram"] = "BpfProgram"
    """Always BpfProgram."""
    spec: BpfProgramSpec
    """What runs, and where."""
    status: BpfProgramStatus | None = None
    """What the nodes report."""
