"""What `helm test` runs: the kinds are served, a controller acts, and the API server refuses what it should."""

import os
import sys
from datetime import UTC, datetime, timedelta

from kubernetes.client import ApiException, CoordinationV1Api, CustomObjectsApi

from kubebee.controller.access import client

FRESH = timedelta(seconds=60)
PLURALS = ("bpfnodes", "bpfprograms", "hostpolicies", "servicelbs")
BROKEN = {
    "apiVersion": "kubebee.dev/v1alpha1",
    "kind": "BpfProgram",
    "metadata": {"name": "refused-by-the-schema"},
    "spec": {"programs": "none"},
}


def main() -> None:
    """Exit with a message at the first thing that is not as it should be."""
    api = client(None, 1)
    kinds = CustomObjectsApi(api)
    for plural in PLURALS:
        kinds.list_cluster_custom_object("kubebee.dev", "v1alpha1", plural, limit=1)
    print("the API server has all kinds")
    lease = CoordinationV1Api(api).read_namespaced_lease("kubebee-controller", os.environ["NAMESPACE"])
    age = datetime.now(UTC) - lease.spec.renew_time
    if age > FRESH:
        sys.exit(f"no controller acts: {lease.spec.holder_identity} renewed the Lease {age} ago")
    print(f"{lease.spec.holder_identity} acts")
    try:
        kinds.create_cluster_custom_object("kubebee.dev", "v1alpha1", "bpfprograms", BROKEN, dry_run="All")
    except ApiException as error:
        if error.status != 422:
            raise
        print("a wrong manifest is refused")
    else:
        sys.exit(
            "the API server takes a wrong manifest: the CustomResourceDefinitions are not those of this chart"
        )


main()
