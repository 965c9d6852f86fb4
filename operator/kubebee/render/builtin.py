"""Sources of the built-in datapaths, rendered once per shape."""

from __future__ import annotations

from functools import cache

from kubebee.lb.features import Features
from kubebee.render.environment import render_builtin


class Datapaths:
    """C text by feature; see planner.build.BuiltinSources."""

    @staticmethod
    @cache
    def hostpolicy(lb_reverse: bool) -> str:
        """The firewall's stage; `lb_reverse`: answers from SNAT backends are looked up there."""
        return render_builtin("hostpolicy", {"lb_reverse": lb_reverse})

    @staticmethod
    @cache
    def servicelb(features: Features, tc: bool, six: bool) -> str:
        """What packets of one family meet of the load balancer: its XDP stage, or its programs at tc."""
        return render_builtin("servicelb", features.context() | {"tc": tc, "six": six})

    @staticmethod
    @cache
    def socketlb(features: Features) -> str:
        """The load balancer's socket programs."""
        return render_builtin("socketlb", features.context())
