"""Faults put into a copy of the chart, each of which a check must find: proof that the checks can fail."""

import pathlib
import shutil
from dataclasses import dataclass

from cases import CHART


@dataclass(frozen=True)
class Fault:
    """One replacement in one file, and a word that the complaint about it must hold."""

    what: str
    file: str
    old: str
    new: str
    found: str
    case: str = "default"


FAULTS = [
    Fault("a Service that leads to no port", "templates/service.yaml", "targetPort: http", "targetPort: htp", "htp"),
    Fault(
        "a probe of no port",
        "templates/_pod.tpl",
        "port: ops\n      {{- toYaml",
        "port: opss\n      {{- toYaml",
        "opss",
    ),
    Fault("a probe of the wrong path", "templates/_pod.tpl", '"/livez"', '"/healthz"', "healthz"),
    Fault(
        "a mount without a volume",
        "templates/_pod.tpl",
        "- name: tmp\n  emptyDir",
        "- name: temp\n  emptyDir",
        "'tmp'",
    ),
    Fault(
        "a selector that selects nothing",
        "templates/service.yaml",
        'include "embedgate.selectorLabels" . | nindent 4',
        '"app: embedgate" | nindent 4',
        "do not have",
    ),
    Fault(
        "a ServiceMonitor that selects no Service",
        "templates/metrics-service.yaml",
        "component: metrics",
        "component: metric",
        "selects 0 Services",
        "monitoring",
    ),
    Fault(
        "a ServiceMonitor with a field that there is not",
        "templates/servicemonitor.yaml",
        "jobLabel:",
        "joblabel:",
        "joblabel",
        "monitoring",
    ),
    Fault(
        "a ServiceMonitor with a scheme that its operator does not know",
        "templates/servicemonitor.yaml",
        "scheme: http",
        "scheme: htp",
        "/scheme must be equal to one of the allowed values",
        "monitoring",
    ),
    Fault(
        "a ScaledObject whose operator wants a number",
        "templates/scaledobject.yaml",
        "failureThreshold: 3",
        "failureThreshold: three",
        "/failureThreshold must be integer",
        "keda",
    ),
    Fault(
        "a ScaledObject of the wrong Deployment",
        "templates/scaledobject.yaml",
        "kind: Deployment",
        "kind: StatefulSet",
        "StatefulSet",
        "keda",
    ),
    Fault(
        "replicas beside an autoscaler",
        "templates/deployment.yaml",
        "if not (or .Values.autoscaling.enabled .Values.keda.enabled)",
        "if true",
        "replicas is set",
        "autoscaling",
    ),
    Fault(
        "a field that Kubernetes does not have",
        "templates/_pod.tpl",
        "imagePullPolicy:",
        "pullPolicy:",
        "pullPolicy",
    ),
    Fault(
        "a variable that is no setting",
        "templates/_env.tpl",
        "EMBEDGATE_DRAIN_TIMEOUT",
        "EMBEDGATE_DRAIN_TIME",
        "EMBEDGATE_DRAIN_TIME",
    ),
    Fault(
        "kept connections that are closed without a word",
        "templates/_env.tpl",
        "{{ int64 $v.termination.shutdownDelaySeconds }}s",
        "0s",
        "EMBEDGATE_SHUTDOWN_DELAY is zero",
    ),
    Fault(
        "a file that no mount holds",
        "templates/_env.tpl",
        "value: /etc/embedgate/keys/",
        "value: /etc/embedgate/key/",
        "no mount holds",
        "inline",
    ),
    Fault(
        "a Secret that is not there",
        "templates/_pod.tpl",
        '"%s-keys"',
        '"%s-key"',
        "the Secret 'test-embedgate-key'",
        "inline",
    ),
    Fault(
        "a grace period that is too short",
        "templates/_pod.tpl",
        "(int64 $v.termination.drainSeconds) (int64",
        "(int64",
        "of grace",
    ),
    Fault(
        "a container that may write its root",
        "values.yaml",
        "readOnlyRootFilesystem: true",
        "readOnlyRootFilesystem: false",
        "readOnlyRootFilesystem",
    ),
    Fault(
        "a key without a description",
        "values.yaml",
        "  # -- Length that the vector must have\n",
        "",
        "tests.dimensions",
    ),
    Fault(
        "a key that the schema does not know",
        "values.yaml",
        "replicaCount: 1",
        "replicaCount: 1\n# -- More\nreplicaCounts: 1",
        "replicaCounts",
    ),
]


def copy(fault, folder):
    """The chart with `fault` in it, below `folder`."""
    chart = pathlib.Path(folder) / "embedgate"
    shutil.copytree(CHART, chart)
    path = chart / fault.file
    text = path.read_text(encoding="utf-8")
    if text.count(fault.old) < 1:
        raise AssertionError(f"{fault.file} no longer holds {fault.old!r}")
    path.write_text(text.replace(fault.old, fault.new), encoding="utf-8")
    return chart
