"""A resource on its own: is it something to act on, and what does its spec come to?

Done once for each version, by the store: what is refused here never takes the place of the version before it.
"""

from __future__ import annotations

from kubebee.api.later import unbuilt
from kubebee.api.v1alpha1.bpfprogram import BpfProgram
from kubebee.api.v1alpha1.hostpolicy import HostPolicy
from kubebee.api.v1alpha1.resources import AnyResource
from kubebee.api.v1alpha1.servicelb import ServiceLB
from kubebee.errors import NotImplementedYetError
from kubebee.planner import bpfprogram, hostpolicy
from kubebee.planner.declared import Prepared
from kubebee.planner.frontends import Balanced


def prepare(resource: AnyResource, before: Prepared = None) -> Prepared:
    """Convert a resource, or refuse it, whatever else there is.

    Args:
        resource: what to convert.
        before: what an earlier version of it came to, of which unchanged parts are taken.

    Raises:
        NotImplementedYetError: it uses a field that this version does not act on.
        KubebeeError: a value that the schema can't check is wrong; `where` is the path of the field.
    """
    missing = unbuilt(resource)
    if missing:
        raise NotImplementedYetError(
            f"this version of kubebee does not act on {', '.join(missing[:5])}",
            where=missing[0].partition(":")[0],
            hint="leave it out; docs/status.md says what works today",
        )
    if isinstance(resource, BpfProgram):
        bpfprogram.check(resource)
    elif isinstance(resource, ServiceLB):
        return Balanced.of(resource, before if isinstance(before, Balanced) else None)
    elif isinstance(resource, HostPolicy):
        return hostpolicy.policy_of(resource.metadata.name, resource.spec)
    return None
