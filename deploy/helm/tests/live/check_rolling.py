"""Two replicas: a rolling update under load, scraped by Prometheus with the configuration of the rendered monitor."""

import time

import check_pod
import monitor
from prometheus import Prometheus
from stage import Stage
from traffic import Traffic

# Queries look back one minute; a short scrape interval gives them enough samples.
INTERVAL = {"interval": "1s", "scrapeTimeout": "1s"}
FILES = ("two-replicas", "monitoring")


def checks(tap, bench):
    """Runs a rolling update, then checks targets, rules and queries in Prometheus."""
    values = {"metrics": {"serviceMonitor": INTERVAL}}
    release = bench.render(values, FILES)
    update = bench.render(values | {"podAnnotations": {"version": "2"}}, FILES)
    replicas = release.one("Deployment")["spec"]["replicas"]
    with Stage(bench, release) as stage, Prometheus(bench.prometheus, stage.folder / "prometheus") as prometheus:
        old = list(stage.start(replicas))
        _write_targets(stage, prometheus)
        rules = release.one("PrometheusRule")["spec"]["groups"]
        prometheus.start(monitor.scrape_configs(release.one("ServiceMonitor"), prometheus.targets), rules)
        with Traffic(stage.service.address) as traffic:
            traffic.wait_answered(100)
            begun = time.monotonic()
            stage.deployment.roll(update.one("Deployment"))
            took = time.monotonic() - begun
            traffic.wait_answered(100)
            tap.check(f"rolling update of {replicas} pods in {took:.1f} s: no request of {traffic.answered} failed",
                      traffic.complaints)
            tap.check("rolling update: every old pod ended with exit code 0 within its grace period",
                      lambda: [text for pod in old for text in check_pod.ended_well(pod)])
            tap.check("rolling update: every pod, old and new, got connections", _all_connected, stage)
            # Still under load, so that requests are in flight.
            _write_targets(stage, prometheus)
            _scraped(tap, bench, stage, prometheus)
            tap.check(f"the PrometheusRule's {len(rules)} groups of rules are evaluated without an error",
                      _evaluated, prometheus, rules)
            _scraped_by_pod(tap, bench, stage)


def _write_targets(stage, prometheus):
    monitor.write_targets(prometheus.targets, stage.cluster.namespace, stage.release.kind("Service"),
                          stage.deployment.pods)


def _all_connected(stage):
    for pod in stage.deployment.history:
        if not stage.service.connections.get(pod.name):
            yield f"{pod.name} got no connection: {stage.service.connections}"
    if "" in stage.service.connections:
        yield f"{stage.service.connections['']} connections had no ready pod"


def _scraped_by_pod(tap, bench, stage):
    """Checks a PodMonitor in a second Prometheus."""
    release = bench.render({"metrics": {"podMonitor": INTERVAL}}, ("podmonitor",))
    with Prometheus(bench.prometheus, stage.folder / "prometheus-by-pod") as prometheus:
        _write_targets(stage, prometheus)
        prometheus.start(monitor.scrape_configs(release.one("PodMonitor"), prometheus.targets), [])
        tap.check("the PodMonitor finds each pod once, and Prometheus can scrape it",
                  _up, prometheus, stage.deployment.pods)
        for query in _queries(release):
            tap.check("KEDA's query by the PodMonitor's labels yields exactly one element, above zero under load",
                      _one_element, prometheus, query)


def _queries(release):
    return [trigger["metadata"]["query"] for trigger in release.one("ScaledObject")["spec"]["triggers"]]


def _scraped(tap, bench, stage, prometheus):
    metrics = {"metrics": {"serviceMonitor": {"enabled": True}}}
    keda = bench.render(files=("keda",))
    hpa = bench.render(metrics, files=("autoscaling",)).one("HorizontalPodAutoscaler")
    tap.check("the ServiceMonitor finds each pod once, and Prometheus can scrape it",
              _up, prometheus, stage.deployment.pods)
    for query in _queries(keda):
        tap.check("KEDA's query yields exactly one element, above zero under load", _one_element, prometheus, query)
    for metric in hpa["spec"]["metrics"]:
        if metric["type"] == "Pods":
            name = metric["pods"]["metric"]["name"]
            tap.check(f"the HorizontalPodAutoscaler's {name} exists for each pod",
                      _for_each_pod, prometheus, name, stage.deployment.pods)


def _up(prometheus, pods):
    wanted = sorted(pod.name for pod in pods)
    found = lambda: {target["labels"]["pod"]: target["health"] for target in prometheus.active_targets()}
    done = prometheus.wait(lambda _: found() == dict.fromkeys(wanted, "up"), seconds=20)
    if not done or len(prometheus.active_targets()) != len(wanted):
        yield f"targets: {prometheus.active_targets()}"
        return
    series = {item["metric"]["pod"]: item["value"][1] for item in prometheus.query("up == 1")}
    if sorted(series) != wanted:
        yield f"up == 1 for {sorted(series)}, the pods are {wanted}"


def _evaluated(prometheus, groups):
    wanted = sum(len(group["rules"]) for group in groups)
    prometheus.wait(lambda _: all(rule["health"] != "unknown" for rule in prometheus.rules()), seconds=60)
    rules = prometheus.rules()
    if len(rules) != wanted:
        yield f"{len(rules)} rules are loaded, {wanted} are rendered"
    for rule in rules:
        if rule["health"] != "ok":
            yield f"{rule['name']} is {rule['health']}: {rule.get('lastError')}"


def _one_element(prometheus, query):
    above_zero = lambda _: [float(item["value"][1]) > 0 for item in prometheus.query(query)] == [True]
    if not prometheus.wait(above_zero, seconds=20):
        yield f"{query} yields {prometheus.query(query)}"


def _for_each_pod(prometheus, name, pods):
    # The query of a metrics adapter, which maps values to pods by their labels.
    found = sorted(item["metric"]["pod"] for item in prometheus.query(f'{name}{{namespace!=""}}'))
    if found != sorted(pod.name for pod in pods):
        yield f"{name} exists for {found}"
