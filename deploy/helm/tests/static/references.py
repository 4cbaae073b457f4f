"""References between rendered objects: every port, selector, volume and key that an object names must exist.

Names of objects outside the release, such as a Secret that the user creates, must be in the values.
"""

ENV_FOLDER = "/etc/embedgate/"


class Objects:
    """The objects of one rendering, with lookup by kind and name."""

    def __init__(self, objects, values):
        self.all = objects
        self._given = set(_scalars(values))

    def kind(self, kind):
        return [item for item in self.all if item["kind"] == kind]

    def find(self, kind, name):
        return next((item for item in self.kind(kind) if item["metadata"]["name"] == name), None)

    def given(self, name):
        """Returns true if the values contain the name, which the user then provides."""
        return name in self._given

    def pods(self):
        """Yields (description, metadata, spec) of every pod and pod template."""
        for item in self.kind("Deployment"):
            template = item["spec"]["template"]
            yield f"Deployment {item['metadata']['name']}", template["metadata"], template["spec"]
        for item in self.kind("Pod"):
            yield f"Pod {item['metadata']['name']}", item["metadata"], item["spec"]

    def deployment(self):
        (deployment,) = self.kind("Deployment")
        return deployment


def check(objects):
    """Complaints of all rules of this file."""
    for rule in (_selectors, _ports, _mounts, _sources, _accounts, _scaling, _monitors, _routes):
        yield from rule(objects)


def _scalars(value):
    if isinstance(value, dict):
        for item in value.values():
            yield from _scalars(item)
    elif isinstance(value, list):
        for item in value:
            yield from _scalars(item)
    else:
        yield value


def _subset(selector, labels):
    return bool(selector) and all(labels.get(key) == value for key, value in selector.items())


def _containers(spec):
    return spec.get("initContainers", []) + spec["containers"]


def _port_names(spec):
    return {port["name"]: port["containerPort"] for one in spec["containers"] for port in one.get("ports", [])}


def _gateway(objects):
    template = objects.deployment()["spec"]["template"]
    return template["metadata"]["labels"], template["spec"]


def _selectors(objects):
    labels, _ = _gateway(objects)
    selecting = [("Deployment", objects.deployment()["spec"]["selector"]["matchLabels"])]
    for item in objects.kind("Service"):
        selecting.append((f"Service {item['metadata']['name']}", item["spec"]["selector"]))
    for item in objects.kind("PodDisruptionBudget"):
        selecting.append(("PodDisruptionBudget", item["spec"]["selector"]["matchLabels"]))
    for item in objects.kind("NetworkPolicy"):
        selecting.append(("NetworkPolicy", item["spec"]["podSelector"]["matchLabels"]))
    for item in objects.kind("PodMonitor"):
        selecting.append(("PodMonitor", item["spec"]["selector"]["matchLabels"]))
    for constraint in objects.deployment()["spec"]["template"]["spec"].get("topologySpreadConstraints", []):
        selecting.append(("topologySpreadConstraints", constraint["labelSelector"]["matchLabels"]))
    for what, selector in selecting:
        if not _subset(selector, labels):
            yield f"{what} selects {selector}, which the gateway's pods do not have: {labels}"
        for other in objects.kind("Pod"):
            if _subset(selector, other["metadata"]["labels"]):
                yield f"{what} also selects the pod {other['metadata']['name']}"


def _ports(objects):
    _, spec = _gateway(objects)
    ports = _port_names(spec)
    wanted = []
    for item in objects.kind("Service"):
        wanted += [(f"Service {item['metadata']['name']}", port["targetPort"]) for port in item["spec"]["ports"]]
    for item in objects.kind("NetworkPolicy"):
        wanted += [
            ("NetworkPolicy", port["port"]) for rule in item["spec"]["ingress"] for port in rule.get("ports", [])
        ]
    for container in spec["containers"]:
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            if "httpGet" in container.get(probe, {}):
                wanted.append((probe, container[probe]["httpGet"]["port"]))
    for what, port in wanted:
        if port not in ports and port not in ports.values():
            yield f"{what} names the port {port!r}; the containers have {ports}"


def _mounts(objects):
    for what, _, spec in objects.pods():
        volumes = {volume["name"] for volume in spec.get("volumes", [])}
        mounted = set()
        for container in _containers(spec):
            mounts = container.get("volumeMounts", [])
            mounted |= {mount["name"] for mount in mounts}
            folders = [mount["mountPath"].rstrip("/") + "/" for mount in mounts]
            if len(set(folders)) != len(folders):
                yield f"{what}, container {container['name']}: two mounts at one path: {folders}"
            for variable in container.get("env", []):
                value = variable.get("value", "")
                if value.startswith(ENV_FOLDER) and not any(value.startswith(folder) for folder in folders):
                    yield f"{what}: {variable['name']} names {value}, which no mount holds"
        for name in mounted - volumes:
            yield f"{what} mounts {name!r}, which is not a volume"
        for name in volumes - mounted:
            yield f"{what} has the volume {name!r}, which nothing mounts"


def _sources(objects):
    """ConfigMaps, Secrets and claims that pods read exist, and so do their keys."""
    for what, _, spec in objects.pods():
        wanted = [("Secret", item["name"], None) for item in spec.get("imagePullSecrets", [])]
        for volume in spec.get("volumes", []):
            if "secret" in volume:
                wanted.append(("Secret", volume["secret"]["secretName"], None))
            if "configMap" in volume:
                wanted.append(("ConfigMap", volume["configMap"]["name"], None))
            if "persistentVolumeClaim" in volume:
                wanted.append(("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"], None))
        for container in _containers(spec):
            for variable in container.get("env", []):
                source = variable.get("valueFrom", {})
                for kind, field in (("Secret", "secretKeyRef"), ("ConfigMap", "configMapKeyRef")):
                    if field in source:
                        wanted.append((kind, source[field]["name"], source[field]["key"]))
            for source in container.get("envFrom", []):
                for kind, field in (("Secret", "secretRef"), ("ConfigMap", "configMapRef")):
                    if field in source:
                        wanted.append((kind, source[field]["name"], None))
        for kind, name, key in wanted:
            found = objects.find(kind, name)
            if found is None and not objects.given(name):
                yield f"{what} reads the {kind} {name!r}, which is neither in the chart nor in the values"
            if found is not None and key is not None and key not in found["data"]:
                yield f"{what} reads {key!r} of the {kind} {name!r}, which has {sorted(found['data'])}"


def _accounts(objects):
    for what, _, spec in objects.pods():
        name = spec.get("serviceAccountName", "default")
        if name != "default" and not objects.find("ServiceAccount", name) and not objects.given(name):
            yield f"{what} runs as the ServiceAccount {name!r}, which does not exist"


def _scaling(objects):
    deployment = objects.deployment()
    scalers = objects.kind("HorizontalPodAutoscaler") + objects.kind("ScaledObject")
    for item in scalers:
        target = item["spec"]["scaleTargetRef"]
        if (target["kind"], target["name"]) != ("Deployment", deployment["metadata"]["name"]):
            yield f"{item['kind']} scales {target}"
    if ("replicas" in deployment["spec"]) == bool(scalers):
        yield f"replicas is set in the Deployment, or {len(scalers)} scalers set it: exactly one of them must"


def _monitors(objects):
    for item in objects.kind("ServiceMonitor"):
        selector = item["spec"]["selector"]["matchLabels"]
        found = [one for one in objects.kind("Service") if _subset(selector, one["metadata"]["labels"])]
        if len(found) != 1:
            yield f"ServiceMonitor selects {len(found)} Services instead of one: {selector}"
        for service in found:
            names = {port["name"] for port in service["spec"]["ports"]}
            for endpoint in item["spec"]["endpoints"]:
                if endpoint["port"] not in names:
                    yield f"ServiceMonitor scrapes the port {endpoint['port']!r}; the Service has {names}"
            if item["spec"].get("jobLabel") not in service["metadata"]["labels"]:
                yield f"ServiceMonitor takes the job from {item['spec'].get('jobLabel')!r}, which the Service lacks"
    labels, spec = _gateway(objects)
    for item in objects.kind("PodMonitor"):
        for endpoint in item["spec"]["podMetricsEndpoints"]:
            if endpoint["port"] not in _port_names(spec):
                yield f"PodMonitor scrapes the port {endpoint['port']!r}, which the pods lack"
        if item["spec"].get("jobLabel") not in labels:
            yield f"PodMonitor takes the job from {item['spec'].get('jobLabel')!r}, which the pods lack"


def _routes(objects):
    wanted = []
    for item in objects.kind("Ingress"):
        for rule in item["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                service = path["backend"]["service"]
                wanted.append(("Ingress", service["name"], service["port"].get("name", service["port"].get("number"))))
    for item in objects.kind("HTTPRoute"):
        for rule in item["spec"]["rules"]:
            wanted += [("HTTPRoute", backend["name"], backend["port"]) for backend in rule["backendRefs"]]
    for what, name, port in wanted:
        service = objects.find("Service", name)
        if service is None:
            yield f"{what} refers to the Service {name!r}, which does not exist"
        elif not any(port in (one["name"], one["port"]) for one in service["spec"]["ports"]):
            yield f"{what} refers to the port {port!r}, which the Service {name!r} lacks"
