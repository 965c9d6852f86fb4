"""Of several controllers one acts: the holder of a Lease, by the rules of Kubernetes' own components.

A holder that could not renew for `RENEW_SECONDS` stops; another one takes a Lease that it has seen unchanged
for `LEASE_SECONDS` by its own clock. So clocks of machines may differ, only their speed must not.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from kubebee.controller.api import Api, ApiError, NotThere
from kubebee.controller.kinds import leases

log = logging.getLogger("kubebee.lease")
LEASE_SECONDS = 15
RENEW_SECONDS = 10.0
RETRY_SECONDS = 2.0
ANSWER_SECONDS = 4.0
"""For a request about the Lease: two may go unanswered before it is lost."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """The Lease as it was seen to change last.

    Attributes:
        at: when, of the monotonic clock.
    """

    version: str
    at: float


class Lease:
    """One candidate's view of a Lease.

    Args:
        api: the API server, with the patience of ANSWER_SECONDS.
        namespace, name: of the Lease.
        identity: of this candidate; no other one may have it.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        api: Api,
        namespace: str,
        name: str,
        identity: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api, self._collection, self._name = api, leases(namespace), name
        self._identity, self._clock = identity, clock
        self._seen: _Seen | None = None
        self._held_until = 0.0
        self._heard_at = clock()
        self.holder = ""

    @property
    def held(self) -> bool:
        """Whether this candidate may act now."""
        return self._clock() < self._held_until

    @property
    def silent_for(self) -> float:
        """Seconds since the API server's last answer."""
        return self._clock() - self._heard_at

    def campaign(self, stop: threading.Event) -> None:
        """Get the Lease and keep it until `stop`, then let go of it. Errors are waited out."""
        told = ""
        while not stop.is_set():
            try:
                self.try_once()
                told = ""
            except ApiError as error:
                if str(error) != told:
                    log.warning(
                        "the Lease %s can't be had: %s", self._name, error, extra={"reason": error.reason}
                    )
                    told = str(error)
            stop.wait(RETRY_SECONDS)
        self.release()

    def try_once(self) -> bool:
        """Take or renew the Lease, if it is free or ours; returns whether we hold it.

        Raises:
            ApiError: the API server did not answer, or refused.
        """
        began = self._clock()
        try:
            lease = self._api.get(self._collection, self._name)
        except NotThere:
            self._write(began, self._api.create, {"metadata": {"name": self._name}}, transitions=0)
            return self.held
        self._heard_at = self._clock()
        spec = lease.get("spec") or {}
        holder, version = str(spec.get("holderIdentity") or ""), str(lease["metadata"]["resourceVersion"])
        if holder != self.holder:
            log.info("the Lease %s is held by %s", self._name, holder or "nobody")
            self.holder = holder
        if self._seen is None or self._seen.version != version:
            self._seen = _Seen(version, began)
        lasts = float(spec.get("leaseDurationSeconds") or LEASE_SECONDS)
        if holder not in ("", self._identity) and began < self._seen.at + lasts:
            return False
        transitions = int(spec.get("leaseTransitions") or 0) + (holder != self._identity)
        self._write(began, self._api.replace, lease, transitions)
        return self.held

    def release(self) -> None:
        """Let another one take it at once; what goes wrong is no matter, it expires."""
        if not self.held:
            return
        self._held_until = 0.0
        try:
            lease = self._api.get(self._collection, self._name)
            if (lease.get("spec") or {}).get("holderIdentity") == self._identity:
                lease["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1}
                self._api.replace(self._collection, lease)
        except ApiError as error:
            log.debug("the Lease was not let go of: %s", error)

    def _write(
        self, began: float, write: Callable[..., dict[str, Any]], lease: dict[str, Any], transitions: int
    ) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = dict(lease.get("spec") or {})
        if spec.get("holderIdentity") != self._identity:
            spec["acquireTime"] = now
        spec |= {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": LEASE_SECONDS,
            "renewTime": now,
            "leaseTransitions": transitions,
        }
        try:
            written = write(self._collection, {**lease, "spec": spec})
        except ApiError as error:
            if error.status == 409:  # another one was faster
                return
            raise
        self._heard_at = self._clock()
        if self.holder != self._identity:
            log.info("the Lease %s is ours, as %s", self._name, self._identity)
            self.holder = self._identity
        self._seen = _Seen(str(written["metadata"]["resourceVersion"]), began)
        self._held_until = began + RENEW_SECONDS
