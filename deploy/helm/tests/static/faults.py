"""Faults injected into a copy of the chart (mutation tests): a check must detect each of them."""

import pathlib
import shutil
from dataclasses import dataclass

from cases import CHART


@dataclass(frozen=True)
class Fault:
    """One replacement in one file, and a text that the complaint about it must contain."""

    description: str
    file: str
    old: str
    new: str
    expected: str
    case: str = "default"


FAULTS = [
    Fault("a Service with an unknown target port", "templates/service.yaml", "targetPort: http", "targetPort: htp", "htp"),
    Fault(
        "a probe of an unknown port",
        "templates/_pod.tpl",
        "port: ops\n      {{- toYaml",
        "port: opss\n      {{- toYaml",
        "opss",
    ),
    Fault("a probe with a wrong path", "templates/_pod.tpl", '"/livez"', '"/healthz"', "healthz"),
    Fault(
        "a probe without the prefix of all routes",
        "templates/_pod.tpl",
        "path: {{ $v.pathPrefix }}{{ $path }}",
        "path: {{ $path }}",
        "/livez",
        "path-prefix",
    ),
    Fault(
        "a scrape without the prefix of all routes",
        "templates/servicemonitor.yaml",
        "path: {{ $.Values.pathPrefix }}/metrics",
        "path: /metrics",
        "not /embeddings/metrics",
        "path-prefix",
    ),
    Fault(
        "a mount without a volume",
        "templates/_pod.tpl",
        "- name: tmp\n  emptyDir",
        "- name: temp\n  emptyDir",
        "'tmp'",
    ),
    Fault(
        "a Service selector that matches no pod",
        "templates/service.yaml",
        'include "embedgate.selectorLabels" . | nindent 4',
        '"app: embedgate" | nindent 4',
        "do not have",
    ),
    Fault(
        "a ServiceMonitor that matches no Service",
        "templates/metrics-service.yaml",
        "component: metrics",
        "component: metric",
        "selects 0 Services",
        "monitoring",
    ),
    Fault(
        "a ServiceMonitor with an unknown field",
        "templates/servicemonitor.yaml",
        "jobLabel:",
        "joblabel:",
        "joblabel",
        "monitoring",
    ),
    Fault(
        "a ServiceMonitor with a scheme that its operator rejects",
        "templates/servicemonitor.yaml",
        "scheme: http",
        "scheme: htp",
        "/scheme must be equal to one of the allowed values",
        "monitoring",
    ),
    Fault(
        "a ScaledObject with a text instead of a number",
        "templates/scaledobject.yaml",
        "failureThreshold: 3",
        "failureThreshold: three",
        "/failureThreshold must be integer",
        "keda",
    ),
    Fault(
        "a ScaledObject with a wrong target",
        "templates/scaledobject.yaml",
        "kind: Deployment",
        "kind: StatefulSet",
        "StatefulSet",
        "keda",
    ),
    Fault(
        "replicas together with an autoscaler",
        "templates/deployment.yaml",
        "if not (or .Values.autoscaling.enabled .Values.keda.enabled)",
        "if true",
        "replicas is set",
        "autoscaling",
    ),
    Fault(
        "a field that Kubernetes does not define",
        "templates/_pod.tpl",
        "imagePullPolicy:",
        "pullPolicy:",
        "pullPolicy",
    ),
    Fault(
        "an environment variable that is not a setting",
        "templates/_env.tpl",
        "EMBEDGATE_DRAIN_TIMEOUT",
        "EMBEDGATE_DRAIN_TIME",
        "EMBEDGATE_DRAIN_TIME",
    ),
    Fault(
        "a shutdown delay of zero",
        "templates/_env.tpl",
        "{{ int64 $v.termination.shutdownDelaySeconds }}s",
        "0s",
        "EMBEDGATE_SHUTDOWN_DELAY is zero",
    ),
    Fault(
        "a file outside all mounts",
        "templates/_env.tpl",
        "value: /etc/embedgate/keys/",
        "value: /etc/embedgate/key/",
        "no mount holds",
        "inline",
    ),
    Fault(
        "a reference to a missing Secret",
        "templates/_pod.tpl",
        '"%s-keys"',
        '"%s-key"',
        "the Secret 'test-embedgate-key'",
        "inline",
    ),
    Fault(
        "a termination grace period that is too short",
        "templates/_pod.tpl",
        "(int64 $v.termination.drainSeconds) (int64",
        "(int64",
        "of grace",
    ),
    Fault(
        "a container with a writable root",
        "values.yaml",
        "readOnlyRootFilesystem: true",
        "readOnlyRootFilesystem: false",
        "readOnlyRootFilesystem",
    ),
    Fault(
        "a key without a description",
        "values.yaml",
        "  # -- Expected dimensions of the vector\n",
        "",
        "tests.dimensions",
    ),
    Fault(
        "a key that is missing from the schema",
        "values.yaml",
        "replicaCount: 1",
        "replicaCount: 1\n# -- More\nreplicaCounts: 1",
        "replicaCounts",
    ),
]


def inject(fault, folder):
    """Copies the chart into `folder` and injects `fault`; returns the copy."""
    chart = pathlib.Path(folder) / "embedgate"
    shutil.copytree(CHART, chart)
    path = chart / fault.file
    text = path.read_text(encoding="utf-8")
    if text.count(fault.old) < 1:
        raise AssertionError(f"{fault.file} no longer contains {fault.old!r}")
    path.write_text(text.replace(fault.old, fault.new), encoding="utf-8")
    return chart
