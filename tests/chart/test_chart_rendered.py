"""What the chart makes of values."""

from typing import Any

import pytest
import yaml

Document = dict[str, Any]
EVERYTHING = (
    "--set=controller.networkPolicy.enabled=true",
    "--set=monitoring.serviceMonitor.enabled=true",
    "--set=monitoring.prometheusRule.enabled=true",
    "--set=monitoring.dashboard.enabled=true",
    "--set=loader.kernelHeaders=true",
    "--set=loader.hostPaths={/usr,/opt/bpf}",
    "--set=loader.capabilities.sysAdmin=true",
    "--set=loader.enableStats=true",
    "--set=kubebee.k8sServiceHost=192.0.2.7",
    "--set=image.registry=registry.example/bpf/",
    "--set=image.pullSecrets[0].name=mine",
    "--set=controller.hostNetwork=true",
)


def only(documents: list[Document], kind: str, name: str) -> Document:
    (found,) = [each for each in documents if each["kind"] == kind and each["metadata"]["name"] == name]
    return found


def daemon_set(documents: list[Document]) -> Document:
    text = only(documents, "ConfigMap", "kubebee-loader")["data"]["daemonset.yaml"]
    made: Document = yaml.safe_load(text)
    return made


def loader(documents: list[Document]) -> Document:
    (container,) = daemon_set(documents)["spec"]["template"]["spec"]["containers"]
    return container  # type: ignore[no-any-return]


def controller(documents: list[Document]) -> Document:
    deployment = only(documents, "Deployment", "kubebee-controller")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return container  # type: ignore[no-any-return]


def pod_templates(documents: list[Document]) -> list[Document]:
    pods = [each["spec"] for each in documents if each["kind"] == "Pod"]
    for each in documents:
        if each["kind"] in ("Deployment", "Job"):
            pods.append(each["spec"]["template"]["spec"])
    return [*pods, daemon_set(documents)["spec"]["template"]["spec"]]


def test_it_renders_with_everything_on(rendered) -> None:
    kinds = {each["kind"] for each in rendered(*EVERYTHING)}
    assert {"NetworkPolicy", "ServiceMonitor", "PrometheusRule", "PodDisruptionBudget"} <= kinds


def test_a_loader_has_three_capabilities_and_a_read_only_root(rendered) -> None:
    context = loader(rendered())["securityContext"]
    assert context["capabilities"] == {"drop": ["ALL"], "add": ["BPF", "PERFMON", "NET_ADMIN"]}
    assert context["readOnlyRootFilesystem"]
    assert not context["privileged"]
    assert not context["allowPrivilegeEscalation"]


def test_a_loader_sees_no_files_of_its_node_but_those_it_is_given(rendered) -> None:
    def seen(*options: str) -> dict[str, Document]:
        documents = rendered(*options)
        volumes = daemon_set(documents)["spec"]["template"]["spec"]["volumes"]
        paths = {each["name"]: each["hostPath"]["path"] for each in volumes if "hostPath" in each}
        mounts = {each["name"]: each for each in loader(documents)["volumeMounts"]}
        return {paths[name]: mounts[name] for name in paths}

    usual = {"/sys/fs/bpf", "/sys/fs/cgroup", "/sys/kernel/tracing", "/var/lib/kubebee"}
    assert seen().keys() == usual
    given = seen("--set=loader.hostPaths={/usr,/opt/bpf}")
    assert given.keys() == usual | {"/usr", "/opt/bpf"}
    for path in ("/usr", "/opt/bpf"):
        assert given[path]["mountPath"] == f"/host{path}"
        assert given[path]["readOnly"]


def test_all_other_containers_have_no_capability_and_are_not_root(rendered) -> None:
    for pod in pod_templates(rendered())[:-1]:
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["capabilities"] == {"drop": ["ALL"]}, container["name"]
            assert context["runAsNonRoot"]
            assert context["readOnlyRootFilesystem"]


def test_statistics_without_the_capability_they_need_are_refused(program) -> None:
    from helm.errors import HelmError
    from helm.manifests import render

    with pytest.raises(HelmError, match=r"loader\.capabilities\.sysAdmin"):
        render(program, "--set=loader.enableStats=true")


def test_every_pod_finds_the_api_server_without_the_service(rendered) -> None:
    for pod in pod_templates(rendered("--set-string=kubebee.k8sServiceHost=192.0.2.7")):
        for container in pod["containers"]:
            told = {each["name"]: each.get("value") for each in container["env"]}
            assert told["KUBERNETES_SERVICE_HOST"] == "192.0.2.7", container["name"]
            assert told["KUBERNETES_SERVICE_PORT"] == "6443", container["name"]


def test_no_pod_is_told_of_an_api_server_by_default(rendered) -> None:
    for pod in pod_templates(rendered()):
        for container in pod["containers"]:
            assert not [each for each in container.get("env", []) if each["name"].startswith("KUBERNETES_")]


def test_the_daemon_set_leaves_the_nodes_to_the_controller(rendered) -> None:
    made = daemon_set(rendered())
    assert made["metadata"]["name"] == "kubebee-loader"
    assert "affinity" not in made["spec"]["template"]["spec"]


def test_a_new_loader_manifest_restarts_the_controller(rendered) -> None:
    def stamp(*options: str) -> str:
        deployment = only(rendered(*options), "Deployment", "kubebee-controller")
        return str(deployment["spec"]["template"]["metadata"]["annotations"]["kubebee.dev/loader-manifest"])

    assert stamp() == stamp()
    assert stamp() != stamp("--set=loader.metricsPort=9751")


def test_selectors_are_the_labels_of_their_pods_and_never_have_a_version(rendered) -> None:
    documents = rendered()
    for workload in (only(documents, "Deployment", "kubebee-controller"), daemon_set(documents)):
        selector = workload["spec"]["selector"]["matchLabels"]
        assert selector.items() <= workload["spec"]["template"]["metadata"]["labels"].items()
        assert set(selector) == {f"app.kubernetes.io/{part}" for part in ("name", "instance", "component")}


def test_images_are_by_tag_or_digest_below_one_registry(rendered) -> None:
    digest = "sha256:" + "ab" * 32
    documents = rendered("--set=image.registry=registry.example/bpf/", f"--set=loader.image.digest={digest}")
    assert controller(documents)["image"] == "registry.example/bpf/kubebee-controller:0.1.0"
    assert loader(documents)["image"] == f"registry.example/bpf/kubebee-loader@{digest}"


def test_crds_stay_when_the_release_goes_unless_told_otherwise(rendered) -> None:
    def policies(*options: str) -> list[str | None]:
        crds = [each for each in rendered(*options) if each["kind"] == "CustomResourceDefinition"]
        return [each["metadata"].get("annotations", {}).get("helm.sh/resource-policy") for each in crds]

    assert policies() == ["keep"] * 4
    assert policies("--set=crds.keep=false") == [None] * 4
    assert policies("--set=crds.install=false") == []


def test_what_is_there_for_uninstalling_is_a_hook_and_goes_with_it(rendered) -> None:
    of_it = [each for each in rendered() if each["metadata"]["name"] == "kubebee-uninstall"]
    assert {each["kind"] for each in of_it} >= {"Job", "ServiceAccount", "ClusterRole", "Role"}
    for each in of_it:
        assert each["metadata"]["annotations"]["helm.sh/hook"] == "pre-delete"
    off = rendered("--set=uninstall.enabled=false")
    assert not [each for each in off if each["metadata"]["name"] == "kubebee-uninstall"]


def test_the_admission_policy_speaks_of_this_namespace_s_loader(rendered) -> None:
    spec = only(rendered(), "ValidatingAdmissionPolicy", "kubebee-loader")["spec"]
    (condition,) = spec["matchConditions"]
    assert '"system:serviceaccount:kubebee-system:kubebee-loader"' in condition["expression"]
    assert spec["failurePolicy"] == "Fail"


def test_every_object_is_in_the_release_s_namespace_or_in_none(rendered) -> None:
    for each in rendered(*EVERYTHING):
        namespace = each["metadata"].get("namespace", "kubebee-system")
        expected = "default" if each["metadata"]["name"] == "kubebee-controller-events" else "kubebee-system"
        assert namespace == expected, each["metadata"]["name"]


def test_no_rule_gives_everything(rendered) -> None:
    for each in rendered():
        if each["kind"] in ("Role", "ClusterRole"):
            for rule in each["rules"]:
                words = (*rule["apiGroups"], *rule["resources"], *rule["verbs"])
                assert "*" not in words, each["metadata"]["name"]
                assert "secrets" not in words


def test_ports_agree_between_pod_service_and_arguments(rendered) -> None:
    documents = rendered("--set=loader.metricsPort=9800", "--set=controller.metricsPort=8800")
    for name, container, port in (
        ("kubebee-loader", loader(documents), 9800),
        ("kubebee-controller", controller(documents), 8800),
    ):
        assert f"--metrics-port={port}" in container["args"]
        assert container["ports"][0]["containerPort"] == port
        assert only(documents, "Service", name)["spec"]["ports"][0]["port"] == port
