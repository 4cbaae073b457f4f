"""A rendered ServiceMonitor or PodMonitor as a scrape configuration, with the relabeling of the Prometheus operator.

Service discovery is simulated by a file of targets with the labels that Prometheus finds in Kubernetes; the relabeling
selects targets and names labels as in a cluster.
"""

import json
import re

from fields import require_known

SERVICE_MONITOR = ("jobLabel", "namespaceSelector", "selector", "endpoints")
POD_MONITOR = ("jobLabel", "namespaceSelector", "selector", "podMetricsEndpoints")
ENDPOINT = ("port", "path", "scheme", "interval", "scrapeTimeout", "relabelings", "metricRelabelings")


def scrape_configs(monitor, targets_file):
    """The scrape configurations of one rendered monitor, with targets from `targets_file`."""
    spec, metadata = monitor["spec"], monitor["metadata"]
    of_service = monitor["kind"] == "ServiceMonitor"
    require_known(monitor["kind"], spec, SERVICE_MONITOR if of_service else POD_MONITOR)
    endpoints = spec["endpoints" if of_service else "podMetricsEndpoints"]
    return [
        _scrape_config(f"{monitor['kind']}/{metadata['namespace']}/{metadata['name']}/{number}", of_service, spec,
                       endpoint, targets_file)
        for number, endpoint in enumerate(endpoints)
    ]


def _scrape_config(name, of_service, spec, endpoint, targets_file):
    require_known("endpoint", endpoint, ENDPOINT)
    require_known("selector", spec["selector"], ("matchLabels",))
    require_known("namespaceSelector", spec["namespaceSelector"], ("matchNames",))
    kind = "service" if of_service else "pod"
    rules = [_keep(["__meta_kubernetes_namespace"], "|".join(spec["namespaceSelector"]["matchNames"]))]
    for label, value in spec["selector"]["matchLabels"].items():
        meta = _meta(label)
        labels = [f"__meta_kubernetes_{kind}_label_{meta}", f"__meta_kubernetes_{kind}_labelpresent_{meta}"]
        rules.append(_keep(labels, f"({re.escape(value)});true"))
    port = "__meta_kubernetes_endpoint_port_name" if of_service else "__meta_kubernetes_pod_container_port_name"
    rules.append(_keep([port], re.escape(endpoint["port"])))
    rules.append({"source_labels": ["__meta_kubernetes_pod_phase"], "regex": "(Failed|Succeeded)", "action": "drop"})
    named = {"namespace": "namespace", "pod": "pod_name", "container": "pod_container_name"}
    if of_service:
        named["service"] = "service_name"
    for target, source in named.items():
        rules.append({"source_labels": [f"__meta_kubernetes_{source}"], "target_label": target})
    if of_service:
        rules.append({"source_labels": ["__meta_kubernetes_service_name"], "target_label": "job"})
    else:
        rules.append({"target_label": "job", "replacement": name.partition("/")[2].rpartition("/")[0]})
    if label := spec.get("jobLabel"):
        source = f"__meta_kubernetes_{kind}_label_{_meta(label)}"
        rules.append({"source_labels": [source], "regex": "(.+)", "target_label": "job"})
    rules.append({"target_label": "endpoint", "replacement": endpoint["port"]})
    config = {
        "job_name": name,
        "honor_labels": False,
        "metrics_path": endpoint.get("path", "/metrics"),
        "scheme": endpoint.get("scheme", "http"),
        "file_sd_configs": [{"files": [str(targets_file)]}],
        "relabel_configs": rules + [_snake(rule) for rule in endpoint.get("relabelings", [])],
        "metric_relabel_configs": [_snake(rule) for rule in endpoint.get("metricRelabelings", [])],
    }
    for field, name in (("interval", "scrape_interval"), ("scrapeTimeout", "scrape_timeout")):
        if field in endpoint:
            config[name] = endpoint[field]
    return config


def write_targets(path, namespace, services, pods):
    """Writes the targets that Kubernetes has for these Services and running pods, one for each port."""
    targets = []
    for pod in pods:
        base = {"namespace": namespace, "pod_name": pod.name, "pod_phase": "Running", "pod_node_name": "node"}
        base |= _labels("pod", pod.metadata["labels"]) | {"pod_container_name": pod.container["name"]}
        for service in services:
            if not service["spec"]["selector"].items() <= pod.metadata["labels"].items():
                continue
            of_service = _labels("service", service["metadata"]["labels"])
            of_service["service_name"] = service["metadata"]["name"]
            for port in service["spec"]["ports"]:
                labels = base | of_service | {"endpoint_port_name": port["name"]}
                targets.append(_target(pod.ports[port["targetPort"]], labels))
        for port in pod.container["ports"]:
            targets.append(_target(pod.ports[port["name"]], base | {"pod_container_port_name": port["name"]}))
    # Prometheus watches the file, so it is replaced atomically.
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(targets), encoding="utf-8")
    draft.rename(path)


def _target(port, labels):
    labels = {f"__meta_kubernetes_{name}": value for name, value in labels.items()}
    return {"targets": [f"127.0.0.1:{port}"], "labels": labels}


def _labels(kind, labels):
    found = {}
    for name, value in labels.items():
        found[f"{kind}_label_{_meta(name)}"] = value
        found[f"{kind}_labelpresent_{_meta(name)}"] = "true"
    return found


def _meta(label):
    """A label's name in the form that service discovery uses in names of meta labels."""
    return re.sub(r"[^a-zA-Z0-9_]", "_", label)


def _keep(labels, regex):
    return {"source_labels": labels, "regex": regex, "action": "keep"}


def _snake(rule):
    """Converts a relabeling rule from the API's camelCase to Prometheus' snake_case."""
    return {re.sub(r"[A-Z]", lambda match: "_" + match[0].lower(), name): value for name, value in rule.items()}
