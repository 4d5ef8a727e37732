"""The Kubernetes manifests agree with the schemas and with the code."""

from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from starlette.routing import Route

from api.app import create_app
from api.settings import ApiSettings
from shared.model_source import model_name
from shared.process.settings import ENV_PREFIX, ProcessSettings
from shared.queue.keys import Keys
from tests.deploy.manifests import (
    OVERLAYS,
    ROOT,
    Object,
    container,
    containers,
    environment,
    named,
    of_kind,
    pods,
    render,
    worker_deployments,
)
from worker.health.metrics import WorkerMetrics
from worker.health.probes import Probes
from worker.settings import WorkerSettings

KEDA_SCHEMAS = ROOT.parent / "shared" / "data"
SETTINGS: dict[str, type[ProcessSettings]] = {"api": ApiSettings, "worker": WorkerSettings}
PORTS = {"api": "FALCONER_PORT", "worker": "FALCONER_METRICS_PORT"}
LONGEST_LOAD_S = 30 * 60

every_overlay = pytest.mark.parametrize("overlay", OVERLAYS)
scaled_overlays = pytest.mark.parametrize("overlay", ["keda", "two-models"])
every_process = pytest.mark.parametrize("process", SETTINGS)


def settings_of(overlay: str, process: str) -> ProcessSettings:
    """Return a process's settings from its variables. Raises for an invalid value."""
    variables = environment(overlay, container(overlay, process))
    return settings_from(variables, SETTINGS[process])


def settings_from(
    variables: dict[str, str | None], settings_class: type[ProcessSettings]
) -> ProcessSettings:
    given: dict[str, Any] = {
        name.removeprefix(ENV_PREFIX).lower(): value
        for name, value in variables.items()
        if name.startswith(ENV_PREFIX) and value is not None
    }
    return settings_class(**given)


async def always() -> bool:
    return True


def routes(process: str) -> set[str]:
    if process == "api":
        return set(create_app(ApiSettings()).openapi()["paths"])
    probes = Probes(WorkerMetrics(), lambda: True, always).app()
    return {route.path for route in probes.routes if isinstance(route, Route)}


@every_overlay
def test_every_object_is_valid_by_kubernetes_schema(overlay: str) -> None:
    version = kubernetes_validate.latest_version()
    for rendered in render(overlay):
        if not rendered["apiVersion"].startswith("keda.sh/"):
            kubernetes_validate.validate(rendered, version, strict=True)


@pytest.mark.parametrize(
    ("kind", "schema"),
    [("ScaledObject", "scaledobjects"), ("TriggerAuthentication", "triggerauthentications")],
)
def test_keda_objects_are_valid_by_keda_s_schema(kind: str, schema: str) -> None:
    path = KEDA_SCHEMAS / f"keda.sh_{schema}.crd.yaml"
    if not path.exists():
        pytest.skip("KEDA's schemas are not here")
    (version,) = yaml.safe_load(path.read_text())["spec"]["versions"]
    scaled = [*of_kind("keda", kind), *of_kind("two-models", kind)]
    assert scaled
    for rendered in scaled:
        jsonschema.validate(
            rendered, without_other_properties(version["schema"]["openAPIV3Schema"])
        )


def without_other_properties(schema: Object) -> Object:
    """Forbid properties that the schema does not list, as `kubectl apply` does."""
    strict = dict(schema)
    if "properties" in schema:
        strict["properties"] = {
            name: without_other_properties(one) for name, one in schema["properties"].items()
        }
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            strict.setdefault("additionalProperties", False)
    if "items" in schema:
        strict["items"] = without_other_properties(schema["items"])
    return strict


@every_overlay
def test_every_container_is_allowed_in_a_restricted_namespace(overlay: str) -> None:
    for _, pod in pods(overlay):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        for one in containers(pod):
            assert one["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


@every_overlay
def test_no_service_sets_a_variable_of_falconer(overlay: str) -> None:
    assert all(pod["enableServiceLinks"] is False for _, pod in pods(overlay))


@every_overlay
@every_process
def test_probes_request_existing_routes(overlay: str, process: str) -> None:
    one = container(overlay, process)
    known = routes(process)
    for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
        request = one[kind]["httpGet"]
        assert request["path"] in known
        assert request["port"] in {port["name"] for port in one["ports"]}


@every_overlay
@every_process
def test_container_ports_equal_the_ports_of_the_settings(overlay: str, process: str) -> None:
    one = container(overlay, process)
    (port,) = one["ports"]
    assert environment(overlay, one)[PORTS[process]] == str(port["containerPort"])
    annotations = named(overlay, "Deployment", process)["spec"]["template"]["metadata"]
    assert annotations["annotations"]["prometheus.io/port"] == str(port["containerPort"])


@every_overlay
@every_process
def test_every_variable_is_a_setting_with_a_valid_value(overlay: str, process: str) -> None:
    fields = SETTINGS[process].model_fields
    for name in environment(overlay, container(overlay, process)):
        if name.startswith(ENV_PREFIX):
            assert name.removeprefix(ENV_PREFIX).lower() in fields, name
    settings_of(overlay, process)


@every_overlay
def test_api_and_worker_use_the_same_queue(overlay: str) -> None:
    queues = {
        environment(overlay, container(overlay, process))["FALCONER_QUEUE"] for process in SETTINGS
    }
    assert len(queues) == 1


@every_overlay
def test_the_bundled_redis_is_configured_not_to_lose_jobs(overlay: str) -> None:
    shipped = [one for one in of_kind(overlay, "StatefulSet") if one["metadata"]["name"] == "redis"]
    for redis in shipped:
        [server] = containers(redis["spec"]["template"]["spec"])
        command = " ".join(server["args"])
        for option in ("--appendonly yes", "--appendfsync always", "--maxmemory-policy noeviction"):
            assert option in command


@every_overlay
def test_secrets_are_generated_or_documented(overlay: str) -> None:
    explained = (ROOT / "docs" / "guides" / "deploy.md").read_text()
    made = {secret["metadata"]["name"] for secret in of_kind(overlay, "Secret")}
    for _, pod in pods(overlay):
        for one in containers(pod):
            for variable in one.get("env", []):
                if wanted := variable.get("valueFrom", {}).get("secretKeyRef"):
                    assert wanted["name"] in made or f"secret generic {wanted['name']}" in explained


@every_overlay
def test_a_stop_leaves_time_to_drain(overlay: str) -> None:
    for process in SETTINGS:
        pod = named(overlay, "Deployment", process)["spec"]["template"]["spec"]
        (one,) = pod["containers"]
        hook = one.get("lifecycle", {}).get("preStop", {}).get("exec", {"command": ["sleep", "0"]})
        settings = settings_of(overlay, process)
        assert isinstance(settings, ApiSettings | WorkerSettings)
        needed_s = settings.grace_s + float(hook["command"][1])
        assert pod["terminationGracePeriodSeconds"] >= needed_s + 10


@every_overlay
def test_a_model_may_load_for_half_an_hour(overlay: str) -> None:
    probe = container(overlay, "worker")["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= LONGEST_LOAD_S
    deployment = named(overlay, "Deployment", "worker")
    assert deployment["spec"]["progressDeadlineSeconds"] > LONGEST_LOAD_S


@every_overlay
def test_services_and_budgets_select_pods(overlay: str) -> None:
    labels = [
        owner["spec"]["template"]["metadata"]["labels"]
        for owner in of_kind(overlay, "Deployment", "StatefulSet")
    ]
    selectors = [service["spec"]["selector"] for service in of_kind(overlay, "Service")]
    for budget in of_kind(overlay, "PodDisruptionBudget"):
        selectors.append(budget["spec"]["selector"]["matchLabels"])
    for policy in of_kind(overlay, "NetworkPolicy"):
        selectors.append(policy["spec"]["podSelector"].get("matchLabels", {}))
    for selector in selectors:
        assert any(selector.items() <= pod.items() for pod in labels), selector


@scaled_overlays
def test_the_workers_of_each_model_are_scaled_by_its_queue_and_its_batch_lane(overlay: str) -> None:
    scaled = {
        one["spec"]["scaleTargetRef"]["name"]: one["spec"]["triggers"]
        for one in of_kind(overlay, "ScaledObject")
    }
    authentications = of_kind(overlay, "TriggerAuthentication")
    for name, keys in keys_of_workers(overlay).items():
        triggers = scaled.pop(name)
        assert [one["type"] for one in triggers] == ["redis", "redis"]
        assert [one["metadata"]["listName"] for one in triggers] == [keys.queue, keys.batch_lane]
        assert {one["authenticationRef"]["name"] for one in triggers} == {
            one["metadata"]["name"] for one in authentications
        }
    assert not scaled


def keys_of_workers(overlay: str) -> dict[str, Keys]:
    """Return the keys that the workers of each Deployment use, by its name."""
    keys = {}
    for deployment in worker_deployments(overlay):
        [one] = deployment["spec"]["template"]["spec"]["containers"]
        settings = settings_from(environment(overlay, one), WorkerSettings)
        assert isinstance(settings, WorkerSettings)
        keys[deployment["metadata"]["name"]] = settings.keys_of(model_name(settings.model))
    return keys


def test_the_api_knows_each_model_and_each_has_a_queue() -> None:
    settings = settings_of("two-models", "api")
    assert isinstance(settings, ApiSettings)
    assert {*settings.all_keys} == {*keys_of_workers("two-models").values()}
    assert len(settings.all_keys) == 2


@every_overlay
def test_no_pod_belongs_to_two_deployments_or_budgets(overlay: str) -> None:
    owners = of_kind(overlay, "Deployment", "PodDisruptionBudget")
    for deployment in of_kind(overlay, "Deployment"):
        labels = deployment["spec"]["template"]["metadata"]["labels"].items()
        kinds = [
            owner["kind"]
            for owner in owners
            if owner["spec"]["selector"]["matchLabels"].items() <= labels
        ]
        assert len(kinds) == len({*kinds})


@scaled_overlays
def test_workers_are_kept_longer_than_a_model_loads(overlay: str) -> None:
    for scaled in of_kind(overlay, "ScaledObject"):
        behavior = scaled["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
        assert scaled["spec"]["minReplicaCount"] == 0
        assert scaled["spec"]["cooldownPeriod"] > LONGEST_LOAD_S
        assert behavior["scaleDown"]["stabilizationWindowSeconds"] > LONGEST_LOAD_S


def test_every_overlay_is_tested() -> None:
    folders = {path.parent.name for path in Path(ROOT, "deploy/k8s/overlays").glob("*/kust*.yaml")}
    assert folders == set(OVERLAYS)
