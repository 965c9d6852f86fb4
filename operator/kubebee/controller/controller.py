"""The controller as a whole: it stands by until it holds the Lease, then acts as long as it does."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from pathlib import Path

from kubernetes.client.api_client import ApiClient

from kubebee.api.v1alpha1.common import API_VERSION
from kubebee.controller.access import for_kopf
from kubebee.controller.api import Api, ApiError
from kubebee.controller.follow import into
from kubebee.controller.inbox import Inbox
from kubebee.controller.kinds import OURS, bundles
from kubebee.controller.kopf_watch import KopfWatch
from kubebee.controller.lease import ANSWER_SECONDS, RETRY_SECONDS, Lease
from kubebee.controller.loaders import Loaders, own_deployment, read_manifest
from kubebee.controller.metrics import Metrics
from kubebee.controller.objects import BUNDLE
from kubebee.controller.sources import Sources
from kubebee.controller.worker import Worker
from kubebee.controller.writer import Writer
from kubebee.planner.candidate import Render
from kubebee.planner.cluster_planner import ClusterPlanner
from kubebee.store.backoff import Backoff

log = logging.getLogger("kubebee.controller")
CONNECTIONS = 16
SILENT_SECONDS = 60.0
"""Without an answer of the API server for so long, a controller is not ready."""
_END_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Setup:
    """What the command line and the environment say.

    Attributes:
        namespace: where bundles, Lease and DaemonSet are.
        loader_manifest: file with the DaemonSet, None: it is somebody else's business.
        lease: name of the Lease.
        identity: of this controller, that no other one has.
        pod: name of the own pod, empty outside of the cluster.
    """

    namespace: str
    loader_manifest: Path | None
    lease: str
    identity: str
    pod: str = ""


class Controller:
    """Stands by and acts until it is stopped.

    Args:
        setup: what the command line says.
        client: access to the API server.
        render: turns a template source into C.
        metrics: told of what happens.
    """

    def __init__(self, setup: Setup, client: ApiClient, render: Render, metrics: Metrics) -> None:
        self._setup, self._client, self._render, self._metrics = setup, client, render, metrics
        self._manifest = read_manifest(setup.loader_manifest) if setup.loader_manifest else None
        self._api = Api(client, metrics.request)
        self._lease = Lease(
            Api(client, metrics.request, ANSWER_SECONDS), setup.namespace, setup.lease, setup.identity
        )
        self._inbox = Inbox()
        self._worker: Worker | None = None
        metrics.watch(lambda: self._lease.held, lambda: len(self._inbox))

    def not_ready(self) -> str:
        """Why it is not ready, empty if it is: standing by is ready, too."""
        if self._lease.silent_for > SILENT_SECONDS:
            return f"no answer of the API server for {self._lease.silent_for:.0f} s"
        if self._lease.held and (self._worker is None or not self._worker.listed.is_set()):
            return "what is in the cluster is not known yet"
        return ""

    def run(self, stop: threading.Event) -> None:
        """Work until `stop`."""
        over = threading.Event()
        campaign = threading.Thread(target=self._lease.campaign, args=(over,), name="lease", daemon=True)
        campaign.start()
        try:
            while not stop.is_set():
                if self._lease.held and self._served(stop):
                    self._act(stop)
                stop.wait(RETRY_SECONDS / 4)
        finally:
            over.set()
            campaign.join(_END_SECONDS)

    def _act(self, stop: threading.Event) -> None:
        """All starts from nothing: what was known when the Lease was held before may be wrong by now."""
        setup, api, inbox = self._setup, self._api, Inbox()
        self._inbox = inbox
        log.info("acting as %s", setup.identity)
        loaders = None
        if self._manifest is not None:
            owner = own_deployment(api, setup.namespace, setup.pod)
            loaders = Loaders(api, setup.namespace, self._manifest, owner)
        watch = KopfWatch(inbox, lambda: for_kopf(self._client.configuration), self._served)
        followers = [into(api, inbox, bundles(setup.namespace), BUNDLE)]
        if loaders is not None:
            followers.append(into(api, inbox, loaders.collection, "DaemonSet"))
        sources = Sources(api, inbox)
        writer = Writer(api, inbox, setup.namespace, lambda: self._lease.held, self._metrics.write)
        planner = ClusterPlanner(self._render)
        self._worker = Worker(api, inbox, planner, writer, sources, loaders, setup.namespace, self._metrics)
        watch.start()
        for follower in followers:
            follower.start()
        try:
            self._worker.run(stop, lambda: self._lease.held)
        finally:
            writer.close()
            for follower in followers:
                follower.stop()
            sources.stop()
            watch.stop(_END_SECONDS)
            self._worker = None
            log.info("acting no more")

    def _served(self, stop: threading.Event) -> bool:
        """Wait until the API server has all our kinds; whether it has, or `stop` was set before."""
        backoff, told = Backoff(), ""
        wanted = {collection.plural for collection in OURS.values()}
        while not stop.is_set():
            try:
                missing = wanted - self._api.served(API_VERSION)
                if not missing:
                    return True
                why = (
                    f"no {', '.join(sorted(missing))} in {API_VERSION}: install the CustomResourceDefinitions"
                )
            except ApiError as error:
                why = str(error)
            if why != told:
                log.warning("waiting for the API: %s", why)
                told = why
            stop.wait(backoff.next())
        return False
