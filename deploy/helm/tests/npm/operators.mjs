// Validates custom resources: reads a JSON list of objects from standard input and writes a JSON list of complaints to
// standard output. The validators were generated from the operators' Go types. Like an API server, they accept unknown
// fields.

import { HTTPRoute } from "@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1/HTTPRoute";
import { ScaledObject } from "@kubernetes-models/keda/keda.sh/v1alpha1/ScaledObject";
import { PodMonitor } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PodMonitor";
import { PrometheusRule } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PrometheusRule";
import { ServiceMonitor } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/ServiceMonitor";
import { text } from "node:stream/consumers";

const KINDS = { HTTPRoute, PodMonitor, PrometheusRule, ScaledObject, ServiceMonitor };

const complaints = [];
for (const item of JSON.parse(await text(process.stdin))) {
  try {
    new KINDS[item.kind](item).validate();
  } catch (error) {
    complaints.push(`${item.kind} ${item.metadata.name}: ${error.message}`);
  }
}
console.log(JSON.stringify(complaints));
