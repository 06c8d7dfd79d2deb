"""What lies in deploy/ fits the server: files, flags, probes, periods and the names of metrics."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
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
from lorikeet_server.options import options_of

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
