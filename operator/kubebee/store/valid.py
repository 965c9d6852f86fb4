"""A document to a resource and what its spec comes to. Of a large ServiceLB only what changed is checked."""

from __future__ import annotations

from dataclasses import dataclass

from kubebee.api.parse import SpecError, parse_resource
from kubebee.api.v1alpha1.resources import AnyResource
from kubebee.api.v1alpha1.servicelb import ServiceLB
from kubebee.planner.declared import Prepared
from kubebee.planner.prepare import prepare


@dataclass(frozen=True, slots=True)
class Valid:
    """A resource, what its spec comes to, and the document that it was read from."""

    body: object
    resource: AnyResource
    prepared: Prepared


def validate(body: object, where: str, before: Valid | None = None) -> Valid:
    """Validate a document.

    Args:
        body: the parsed document.
        where: its place, for messages.
        before: an earlier version. Frontends that are the same objects in both bodies (see store.remembered)
            are taken from it, as a frontend is valid or not whatever stands beside it.

    Raises:
        KubebeeError: it is not valid, or asks for what is not built.
    """
    resource = _parse(body, where, before)
    return Valid(body, resource, prepare(resource, before.prepared if before else None))


def _parse(body: object, where: str, before: Valid | None) -> AnyResource:
    items = _frontends(body)
    if items and before is not None and isinstance(before.resource, ServiceLB):
        models = before.resource.spec.frontends
        known = {id(item): model for item, model in zip(_frontends(before.body), models, strict=True)}
        assert isinstance(body, dict)
        spec = {**body["spec"], "frontends": [known.get(id(item), item) for item in items]}
        try:
            return parse_resource({**body, "spec": spec}, where)
        except SpecError:
            pass  # below it says what is wrong with what the user wrote
    return parse_resource(body, where)


def _frontends(body: object) -> list[object]:
    spec = body.get("spec") if isinstance(body, dict) else None
    frontends = spec.get("frontends") if isinstance(spec, dict) else None
    return frontends if isinstance(frontends, list) else []
