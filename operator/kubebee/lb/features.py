"""What of the load balancer's C is rendered."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Features:
    """Switches of templates/servicelb.bpf.c.j2 and socketlb.bpf.c.j2. What is off costs no code and no map.

    Attributes:
        dsr: some frontends are forwarded so; translation is always there, for backends on the node itself.
        ip_option: some of these by an option of the IP header.
        ipv6: maps and code of that family.
        affinity: clients come back to the backend they had.
        cut_over: flows that kube-proxy began stay with it.
        random: some frontends draw the backend of a new flow.
        host_only: of sockets those in the host's network namespace are served; packets don't care.
    """

    dsr: bool = False
    ip_option: bool = False
    ipv6: bool = False
    affinity: bool = False
    cut_over: bool = False
    random: bool = False
    host_only: bool = False

    def context(self) -> dict[str, bool]:
        """The switches by name, as templates know them."""
        return asdict(self)
