"""What all kinds share: the base models, validation rules, metadata and field types."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, Strict, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

GROUP = "kubebee.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

_ACRONYMS = {"socket_lb": "socketLB"}


def _json_name(attribute: str) -> str:
    """Name of a field in YAML; a trailing underscore only dodges a Python keyword (`from_` -> `from`)."""
    return _ACRONYMS.get(attribute) or to_camel(attribute.removesuffix("_"))


def cel_field(name: str) -> str:
    """Return how an expression names a field; the language's own words need escaping."""
    return f"self.__{name}__" if name in ("function", "namespace", "package", "import") else f"self.{name}"


@dataclass(frozen=True, slots=True)
class Rule:
    """A condition over several fields of one object, checked by the API server and by us alike.

    Attributes:
        cel: Common Expression Language over `self`; empty for what it cannot say.
        message: what the user reads when it does not hold.
        holds: the same condition over the parsed model.
    """

    cel: str
    message: str
    holds: Callable[[Any], bool]


def _count_set(model: BaseModel, fields: tuple[str, ...]) -> int:
    return sum(getattr(model, field) is not None for field in fields)


def _cel_count(fields: tuple[str, ...]) -> str:
    return "[" + ", ".join(f"has(self.{_json_name(field)})" for field in fields) + "].filter(x, x).size()"


def _names(fields: tuple[str, ...]) -> str:
    return ", ".join(_json_name(field) for field in fields)


def exactly_one(*fields: str) -> Rule:
    """Rule: one of these optional fields is set, and only one."""
    return Rule(
        f"{_cel_count(fields)} == 1",
        f"exactly one of {_names(fields)} must be set",
        lambda model: _count_set(model, fields) == 1,
    )


def at_least_one(*fields: str) -> Rule:
    """Rule: one or more of these optional fields is set."""
    return Rule(
        f"{_cel_count(fields)} >= 1",
        f"at least one of {_names(fields)} must be set",
        lambda model: _count_set(model, fields) >= 1,
    )


@dataclass(frozen=True, slots=True)
class Later:
    """Marks a field (or some of its values) that the API has and this version does not act on.

    The planner refuses a resource that uses one, see `kubebee.api.later`.
    """

    values: frozenset[str] = frozenset()


LATER = Later()


def later(*values: str) -> Later:
    """Mark only these values of an enumerated field as not built yet."""
    return Later(frozenset(values))


class ApiModel(BaseModel):
    """Base of every part of a spec: immutable, unknown fields are errors.

    Building the validators waits for the first use, which keeps imports fast. Field descriptions are the
    docstrings under the fields; `kubebee.api.docs` reads them from the source when a CRD is generated.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=_json_name, populate_by_name=True, defer_build=True
    )

    built: ClassVar[bool] = True
    """False where this version refuses any use of the object."""

    def to_json(self) -> dict[str, JsonValue]:
        """Return the object as it is written to a store: camelCase, unset optional fields left out."""
        dumped: dict[str, JsonValue] = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        return dumped


class RuledModel(ApiModel):
    """An object with rules across its fields."""

    rules: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="after")
    def _check_rules(self) -> Self:
        for rule in self.rules:
            if not rule.holds(self):
                raise PydanticCustomError("rule", "{message}", {"message": rule.message})
        return self


class StatusModel(ApiModel):
    """Base of every part of a status: fields that another version wrote are ignored."""

    model_config = ConfigDict(extra="ignore")


# --- field types -----------------------------------------------------------------------------------------

_OCTET = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_HEX = "[0-9a-fA-F]{1,4}"
_IPV4 = rf"({_OCTET}\.){{3}}{_OCTET}"
# RFC 4291, 2.2: eight groups, or fewer with one "::"; not the form that ends in an IPv4 address.
_IPV6 = "|".join(
    [
        f"({_HEX}:){{7}}{_HEX}",
        f"({_HEX}:){{1,7}}:",
        *(f"({_HEX}:){{1,{7 - tail}}}(:{_HEX}){{1,{tail}}}" for tail in range(1, 7)),
        f":(:{_HEX}){{1,7}}",
        "::",
    ]
)

ADDRESS_PATTERN = f"^({_IPV4}|{_IPV6})$"
CIDR_PATTERN = f"^({_IPV4}/(3[0-2]|[12]?[0-9])|({_IPV6})/(12[0-8]|1[01][0-9]|[1-9]?[0-9]))$"
LABEL_PATTERN = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
SUBDOMAIN_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
IDENTIFIER_PATTERN = "^[A-Za-z_][A-Za-z0-9_]*$"
SYMBOL_PATTERN = r"^[A-Za-z_$.][A-Za-z0-9_$.@]*$"
FILE_PATTERN = r"^/[^\x00]*$"
INTERFACE_PATTERN = r"^[^/\s]{1,15}$"
SHA256_PATTERN = "^[0-9a-f]{64}$"
PORTS_PATTERN = "^[0-9]{1,5}(-[0-9]{1,5})?$"
PERCENT_PATTERN = "^([0-9]{1,5}|100%|[1-9]?[0-9]%)$"
PROTOCOL_PATTERN = "^(TCP|UDP|ICMP|SCTP|25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])$"
HTTP_PATH_PATTERN = "^/[!-~]*$"
BASE64_PATTERN = r"^[A-Za-z0-9+/=\s]*$"

EXPECTED = {
    ADDRESS_PATTERN: "an IP address such as 192.0.2.1 or 2001:db8::1",
    CIDR_PATTERN: "an address with prefix length such as 192.0.2.0/24 or 2001:db8::/32",
    LABEL_PATTERN: "lower-case letters, digits and '-', starting and ending with a letter or digit",
    SUBDOMAIN_PATTERN: "lower-case letters, digits, '-' and single '.' between them, as in my-program.v2",
    IDENTIFIER_PATTERN: "a C identifier",
    SYMBOL_PATTERN: "the name of a symbol",
    FILE_PATTERN: "an absolute path",
    INTERFACE_PATTERN: "the name of a network interface: 1 to 15 characters, no '/' and no space",
    SHA256_PATTERN: "a SHA-256 digest: 64 lower-case hexadecimal digits",
    PORTS_PATTERN: 'a port such as 80 or an inclusive range such as "8000-8010"',
    PERCENT_PATTERN: 'a number or a percentage such as "10%"',
    PROTOCOL_PATTERN: "TCP, UDP, ICMP, SCTP or a protocol number from 0 to 255",
    HTTP_PATH_PATTERN: "a path such as /healthz: '/' and then printable ASCII without spaces",
    BASE64_PATTERN: "base64 text",
}
"""What a string of each pattern is, for error messages and the reference."""


def _text(pattern: str, longest: int) -> Any:
    return Field(pattern=pattern, min_length=1, max_length=longest)


Int = Annotated[int, Strict()]
Bool = Annotated[bool, Strict()]
Port = Annotated[int, Strict(), Field(ge=1, le=65535)]
Address = Annotated[str, _text(ADDRESS_PATTERN, 45)]
Cidr = Annotated[str, _text(CIDR_PATTERN, 49)]
Label = Annotated[str, _text(LABEL_PATTERN, 63)]
Subdomain = Annotated[str, _text(SUBDOMAIN_PATTERN, 253)]
Identifier = Annotated[str, _text(IDENTIFIER_PATTERN, 128)]
Symbol = Annotated[str, _text(SYMBOL_PATTERN, 512)]
HttpPath = Annotated[str, _text(HTTP_PATH_PATTERN, 256)]
FilePath = Annotated[str, _text(FILE_PATTERN, 4096)]
InterfaceName = Annotated[str, Field(pattern=INTERFACE_PATTERN, max_length=15)]
Sha256 = Annotated[str, Field(pattern=SHA256_PATTERN, max_length=64)]
Word = Annotated[str, Field(max_length=64)]
Line = Annotated[str, Field(max_length=256)]
Sentence = Annotated[str, Field(max_length=1024)]
LogTail = Annotated[str, Field(max_length=2048)]
Time = Annotated[str, Field(max_length=64, json_schema_extra={"format": "date-time"})]
LabelKey = Annotated[str, Field(min_length=1, max_length=316)]
LabelValue = Annotated[str, Field(max_length=63)]
LabelValues = Annotated[dict[LabelKey, LabelValue], Field(max_length=64)]


def _number_as_text(value: object) -> object:
    return str(value) if type(value) is int else value


def _int_or_string(pattern: str, **of_numbers: int) -> Any:
    def mark(schema: dict[str, Any]) -> None:
        # The API server applies string rules to strings only, and wants no type beside the marker.
        # pydantic leaves a pattern out of the schema where a validator stands before it.
        schema.pop("type", None)
        schema |= {"pattern": pattern, "x-kubernetes-int-or-string": True, **of_numbers}

    return Field(pattern=pattern, max_length=16, json_schema_extra=mark)


PortRange = Annotated[str, BeforeValidator(_number_as_text), _int_or_string(PORTS_PATTERN)]
ServedPorts = Annotated[
    str, BeforeValidator(_number_as_text), _int_or_string(PORTS_PATTERN, minimum=1, maximum=65535)
]
IntOrPercent = Annotated[str, BeforeValidator(_number_as_text), _int_or_string(PERCENT_PATTERN)]
PortName = Annotated[str, BeforeValidator(_number_as_text), _int_or_string(LABEL_PATTERN)]
IpProtocol = Annotated[str, BeforeValidator(_number_as_text), _int_or_string(PROTOCOL_PATTERN)]


def list_map(*keys: str) -> dict[str, JsonValue]:
    """Schema of a list whose items are told apart by these fields (merged item by item on apply)."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)}


# --- metadata and selectors ------------------------------------------------------------------------------


class ObjectMeta(ApiModel):
    """Metadata of an object, as Kubernetes has it; fields unknown here are kept."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, JsonValue]

    name: Subdomain
    """Name, unique among the objects of one kind."""
    uid: str = ""
    """Identity given by the store."""
    generation: int = 0
    """Counts changes of the spec."""
    resource_version: str = ""
    """Version given by the store."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Labels."""
    annotations: dict[str, str] = Field(default_factory=dict)
    """Annotations."""
    creation_timestamp: str | None = None
    """When it was created, RFC 3339."""
    deletion_timestamp: str | None = None
    """When its deletion was asked for, RFC 3339."""
    finalizers: tuple[str, ...] = ()
    """Who must clean up before it goes."""


@dataclass(frozen=True, slots=True)
class Names:
    """What kubectl calls a kind, beside the name of its class."""

    plural: str
    short: str


class Resource(ApiModel):
    """Base of the kinds. Spec and status are declared by each of them."""

    names: ClassVar[Names]

    api_version: str = API_VERSION
    """Always kubebee.dev/v1alpha1."""
    metadata: ObjectMeta
    """Name and labels."""
