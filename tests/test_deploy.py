"""What lies in deploy/ fits the server: files, flags, probes, periods and the names of metrics."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from lorikeet_server.api.app import ROUTES
from lorikeet_server.bridge import STOP_TIMEOUT_S
from lorikeet_server.config import HttpConfig, ServerConfig
from lorikeet_server.engine.stats import EngineStats
from lorikeet_server.keyring import Scope, add_key, read_keys
from lorikeet_server.metrics import Metrics
from lorikeet_server.metrics.adapters import NoNames
from lorikeet_server.metrics.vllm import Sources, vllm_registry
from lorikeet_server.options import options_of
from tests.server.picker import NAMES, Seen, pick

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
YAML = sorted(DEPLOY.rglob("*.yml"))
DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
PATHS = {route.path for route in ROUTES}
NAME = re.compile(r"\blorikeet_[a-z_]+")


def read(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text())


def manifests() -> dict[str, Any]:
    return {each["kind"]: each for each in yaml.safe_load_all((DEPLOY / "kubernetes.yml").read_text())}


def there_are() -> set[str]:
    """Every series that a scrape has, zero or not."""
    found = set()
    for family in Metrics(EngineStats, "nf4").registry.collect():
        found |= {each.name for each in family.samples} | {family.name}
        if family.type == "counter":
            found |= {f"{family.name}_total"}
        if family.type == "histogram":
            found |= {f"{family.name}_{part}" for part in ("bucket", "sum", "count")}
    return found


def expressions() -> list[tuple[str, str]]:
    rules = [rule for group in read("alerts.yml")["groups"] for rule in group["rules"]]
    panels = [panel for path in DASHBOARDS for panel in json.loads(path.read_text())["panels"]]
    asked = [(rule["alert"], rule["expr"]) for rule in rules]
    return asked + [(each["title"], target["expr"]) for each in panels for target in each.get("targets", ())]


def test_kubernetes_names_no_flag_by_itself() -> None:
    """Its service links would set LORIKEET_PORT to `tcp://...` in every pod that starts after the service."""
    assert manifests()["Deployment"]["spec"]["template"]["spec"]["enableServiceLinks"] is False


@pytest.mark.parametrize("path", YAML, ids=lambda path: path.name)
def test_yaml_parses(path: Path) -> None:
    assert all(each for each in yaml.safe_load_all(path.read_text()))


@pytest.mark.safety("metrics 6")
@pytest.mark.parametrize(("title", "expression"), expressions())
def test_every_metric_that_is_asked_for_exists(title: str, expression: str) -> None:
    asked = set(NAME.findall(expression))
    assert asked <= there_are(), title
    assert asked or expression.startswith("up{"), title


@pytest.mark.parametrize(("title", "expression"), expressions())
def test_counters_are_asked_for_their_rate_and_brackets_close(title: str, expression: str) -> None:
    assert all(expression.count(a) == expression.count(b) for a, b in ("()", "{}", "[]")), title
    for counter in re.findall(r"(?<!rate\()(?<!increase\()\blorikeet_[a-z_]+_total\b", expression):
        raise AssertionError(f"{title}: {counter} without rate or increase")


@pytest.mark.safety("metrics 6")
def test_every_label_value_that_is_asked_for_exists() -> None:
    have: dict[str, set[str]] = {}
    for family in Metrics(EngineStats, "nf4").registry.collect():
        for sample in family.samples:
            have.setdefault(sample.name, set()).update(sample.labels.values())
    for title, expression in expressions():
        for name, value in re.findall(r"(lorikeet_[a-z_]+)\{[^}]*reason=\"([a-z_]+)\"", expression):
            assert value in have[name], title


def test_compose_mounts_files_that_exist_and_publishes_on_loopback_only() -> None:
    services = read("docker-compose.yml")["services"]
    for name, service in services.items():
        for mount in service.get("volumes", ()):
            source = mount.partition(":")[0]
            if source.startswith("."):
                assert (DEPLOY / source).exists(), mount
            else:
                assert source in read("docker-compose.yml")["volumes"]
        assert all(port.startswith("127.0.0.1:") for port in service["ports"]), name
    build = (DEPLOY / services["lorikeet"]["build"]["context"]).resolve()
    assert (build / "Dockerfile").is_file()
    for rules in read("prometheus.yml")["rule_files"] + read("alerts.test.yml")["rule_files"]:
        assert (DEPLOY / rules).is_file()


def test_grafana_is_given_what_its_dashboard_names() -> None:
    (source,) = read("grafana/provisioning/datasources/lorikeet.yml")["datasources"]
    for path in DASHBOARDS:
        dashboard = json.loads(path.read_text())
        used = {panel["datasource"]["uid"] for panel in dashboard["panels"] if panel["type"] != "row"}
        assert used == {source["uid"]}
        ids = [panel["id"] for panel in dashboard["panels"]]
        assert len(set(ids)) == len(ids)
    (provider,) = read("grafana/provisioning/dashboards/lorikeet.yml")["providers"]
    mounts = [each.split(":") for each in read("docker-compose.yml")["services"]["grafana"]["volumes"]]
    assert provider["options"]["path"] in {mount[1] for mount in mounts}


def drain(words: list[str]) -> int:
    flags = {"--" + name.replace("_", "-") for name, _, _ in options_of(ServerConfig)}
    assert {word for word in words if word.startswith("--")} <= flags
    if "--drain-seconds" not in words:
        return HttpConfig().drain_seconds
    return int(words[words.index("--drain-seconds") + 1])


def test_whoever_stops_the_server_waits_for_its_drain_and_its_last_step() -> None:
    service = read("docker-compose.yml")["services"]["lorikeet"]
    assert int(service["stop_grace_period"].removesuffix("s")) > drain(service["command"]) + STOP_TIMEOUT_S
    pod = manifests()["Deployment"]["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > drain(pod["containers"][0]["args"]) + STOP_TIMEOUT_S


def test_what_scrapes_without_a_key_is_let_in() -> None:
    """The image has keys, Prometheus has none."""
    (scrape,) = read("prometheus.yml")["scrape_configs"]
    assert "authorization" not in scrape
    pod = manifests()["Deployment"]["spec"]["template"]["spec"]
    for words in (
        read("docker-compose.yml")["services"]["lorikeet"]["command"],
        pod["containers"][0]["args"],
    ):
        assert "--open-metrics" in words


def test_the_pods_keys_are_on_no_volume_that_its_group_can_write(tmp_path: Path) -> None:
    """`fsGroup` lets the group write to a volume's files; a secret is mounted for reading."""
    pod = manifests()["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    path = {each["name"]: each["value"] for each in container["env"]}["LORIKEET_API_KEYS"]
    (mount,) = (each for each in container["volumeMounts"] if path.startswith(each["mountPath"] + "/"))
    (volume,) = (each for each in pod["volumes"] if each["name"] == mount["name"])
    keys = tmp_path / Path(path).name
    add_key(keys, "first", list(Scope), None)
    keys.chmod(volume["secret"]["defaultMode"])
    assert [key.name for key in read_keys(keys)] == ["first"]


def test_the_pod_is_probed_where_the_server_answers_and_has_no_rights_it_does_not_need() -> None:
    found = manifests()
    pod = found["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    probes = {
        name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")
    }
    assert probes == {"startup": "/startup", "liveness": "/health/live", "readiness": "/health/ready"}
    assert set(probes.values()) <= PATHS
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    claims = {
        each["persistentVolumeClaim"]["claimName"]
        for each in pod["volumes"]
        if len(each) == 2 and "persistentVolumeClaim" in each
    }
    assert claims == {found["PersistentVolumeClaim"]["metadata"]["name"]}
    assert {each["name"] for each in container["volumeMounts"]} == {each["name"] for each in pod["volumes"]}
    labels = found["Deployment"]["spec"]["template"]["metadata"]["labels"]
    for selector in (
        found["Service"]["spec"]["selector"],
        found["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
        found["Deployment"]["spec"]["selector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
@pytest.mark.parametrize(
    "words",
    [
        ["check", "config", "prometheus.yml"],
        ["check", "rules", "alerts.yml"],
        ["test", "rules", "alerts.test.yml"],
    ],
)
def test_promtool_agrees(words: list[str]) -> None:
    done = subprocess.run(["promtool", *words], cwd=DEPLOY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


GATEWAY = DEPLOY / "gateway"


def gateway(kind: str, file: str) -> Any:
    """The one manifest of this kind in a file below deploy/gateway."""
    found = [each for each in yaml.safe_load_all((GATEWAY / file).read_text()) if each["kind"] == kind]
    assert len(found) == 1, (kind, file)
    return found[0]


def replica() -> tuple[Any, Any]:
    pod = gateway("StatefulSet", "replicas.yml")["spec"]["template"]["spec"]
    return pod, pod["containers"][0]


def picker_config() -> Any:
    return yaml.safe_load(gateway("ConfigMap", "picker.yml")["data"]["picker.yaml"])


def plugins() -> dict[str, Any]:
    return {each["type"]: each.get("parameters", {}) for each in picker_config()["plugins"]}


def served() -> dict[str, Any]:
    return tomllib.loads(gateway("ConfigMap", "replicas.yml")["data"]["serve.toml"])


def test_replicas_are_started_with_flags_that_exist() -> None:
    flags = {name.replace("_", "-") for name, _, _ in options_of(ServerConfig)}
    assert served().keys() <= flags
    _, container = replica()
    mounts = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
    assert container["args"] == ["--config", "/config/serve.toml"]
    assert mounts["/config"] == "config"
    assert served()["adapters-root"] in mounts
    assert served()["open-metrics"] is True, "the picker has no key"


def test_a_replica_is_told_to_stop_after_the_picker_has_seen_it_go() -> None:
    pod, container = replica()
    pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    readiness = container["readinessProbe"]
    assert pod["terminationGracePeriodSeconds"] > pause + served()["drain-seconds"] + STOP_TIMEOUT_S
    assert pause >= readiness["periodSeconds"] * readiness["failureThreshold"]
    picker = gateway("Deployment", "picker.yml")["spec"]["template"]["spec"]
    assert picker["terminationGracePeriodSeconds"] >= pod["terminationGracePeriodSeconds"]


def test_a_replica_is_the_pod_that_runs_alone_but_for_its_volumes() -> None:
    alone, replicated = manifests()["Deployment"]["spec"]["template"]["spec"], replica()[0]
    for key in ("automountServiceAccountToken", "enableServiceLinks", "securityContext"):
        assert replicated[key] == alone[key]
    (mine,), (theirs,) = replicated["containers"], alone["containers"]
    for key in ("startupProbe", "livenessProbe", "readinessProbe", "securityContext", "env", "ports"):
        assert mine[key] == theirs[key]
    named = {each["name"] for each in replicated["volumes"]}
    named |= {
        each["metadata"]["name"]
        for each in gateway("StatefulSet", "replicas.yml")["spec"]["volumeClaimTemplates"]
    }
    assert {each["name"] for each in mine["volumeMounts"]} == named


def test_the_picker_reads_metrics_that_the_server_has_where_it_has_them() -> None:
    sources = Sources("m", Metrics(EngineStats, "nf4").registry, EngineStats, NoNames(), frozenset())
    have = {family.name: family.type for family in vllm_registry(sources).collect()}
    assert plugins()["metrics-data-source"] == {"scheme": "http", "path": "/metrics/vllm"}
    assert plugins()["metrics-data-source"]["path"] in PATHS
    extractor = plugins()["core-metrics-extractor"]
    (engine,) = extractor["engineConfigs"]
    assert engine.pop("name") == extractor["defaultEngine"]
    assert engine.keys() == {
        "queuedRequestsSpec",
        "runningRequestsSpec",
        "kvUsageSpec",
        "loraSpec",
        "cacheInfoSpec",
    }
    assert {name: have.get(name) for name in engine.values()} == dict.fromkeys(engine.values(), "gauge")
    assert set(engine.values()) == set(NAMES), "what the tests of the protocol read"


def test_the_picker_is_configured_with_plugins_that_it_names() -> None:
    config = picker_config()
    (source,) = config["dataLayer"]["sources"]
    named = {source["pluginRef"], *(each["pluginRef"] for each in source["extractors"])}
    (profile,) = config["schedulingProfiles"]
    named |= {each["pluginRef"] for each in profile["plugins"]}
    assert named == plugins().keys()
    (container,) = gateway("Deployment", "picker.yml")["spec"]["template"]["spec"]["containers"]
    words = dict(word.split("=", 1) for word in container["args"])
    assert words["--pool-name"] == gateway("InferencePool", "route.yml")["metadata"]["name"]
    (mount,) = container["volumeMounts"]
    assert words["--config-file"] == f"{mount['mountPath']}/picker.yaml"
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    assert int(words["--grpc-port"]) == ports["grpc"]
    assert int(words["--grpc-health-port"]) == ports["health"] == container["readinessProbe"]["grpc"]["port"]


def test_with_the_configured_weights_an_adapter_draws_its_requests_until_a_queue_grows_there() -> None:
    (profile,) = picker_config()["schedulingProfiles"]
    weights = {each["pluginRef"]: each["weight"] for each in profile["plugins"] if "weight" in each}
    idle = Seen(0, 0, 0.0, frozenset(), frozenset(), 512, 16, 100)
    holds = replace(idle, active=frozenset({"a"}), requests=4, cache=0.5)
    queued = replace(holds, queued=3)
    assert pick({"idle": idle, "holds": holds}, "a", weights) == "holds"
    assert pick({"idle": idle, "holds": queued}, "a", weights) == "idle"
    assert pick({"idle": idle, "holds": queued, "worse": replace(idle, queued=30)}, "a", weights) == "holds"


def test_the_route_leads_over_the_pool_to_the_replicas_and_the_picker() -> None:
    pool = gateway("InferencePool", "route.yml")
    stateful = gateway("StatefulSet", "replicas.yml")
    labels = stateful["spec"]["template"]["metadata"]["labels"]
    _, container = replica()
    assert pool["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert [each["number"] for each in pool["spec"]["targetPorts"]] == [
        each["containerPort"] for each in container["ports"]
    ]
    service = gateway("Service", "picker.yml")
    assert pool["spec"]["endpointPickerRef"]["name"] == service["metadata"]["name"]
    assert pool["spec"]["endpointPickerRef"]["port"]["number"] == service["spec"]["ports"][0]["port"]
    (rule,) = gateway("HTTPRoute", "route.yml")["spec"]["rules"]
    assert {each["path"]["value"] for each in rule["matches"]} <= PATHS
    (backend,) = rule["backendRefs"]
    assert (backend["kind"], backend["name"]) == (pool["kind"], pool["metadata"]["name"])
    assert rule["timeouts"]["request"] == f"{HttpConfig().request_seconds}s"
    objective = gateway("InferenceObjective", "route.yml")
    assert objective["spec"]["poolRef"]["name"] == pool["metadata"]["name"]
    picker = gateway("Deployment", "picker.yml")["spec"]["template"]["metadata"]["labels"]
    (ingress,) = gateway("NetworkPolicy", "replicas.yml")["spec"]["ingress"]
    let_in = [each["podSelector"]["matchLabels"] for each in ingress["from"]]
    assert any(each.items() <= picker.items() for each in let_in)
