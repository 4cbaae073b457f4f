{{/*
Rejects combinations of values that cannot work together, and names their keys. The schema checks each value by itself.
*/}}
{{- define "embedgate.validate" -}}
{{- $v := .Values -}}
{{- range $name, $labels := dict "commonLabels" $v.commonLabels "podLabels" $v.podLabels -}}
{{- range $key, $_ := $labels -}}
{{- if or (hasPrefix "app.kubernetes.io/" $key) (hasPrefix "helm.sh/" $key) -}}
{{- fail (printf "%s: %s is reserved for the chart" $name $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and $v.autoscaling.enabled $v.keda.enabled -}}
{{- fail "autoscaling.enabled and keda.enabled: choose one; both set the number of pods" -}}
{{- end -}}
{{- if and $v.autoscaling.enabled (not $v.autoscaling.targetCPUUtilizationPercentage) (not $v.autoscaling.targetTokensInFlight) -}}
{{- fail "autoscaling: set targetCPUUtilizationPercentage or targetTokensInFlight" -}}
{{- end -}}
{{- if and $v.autoscaling.enabled (gt (int64 $v.autoscaling.minReplicas) (int64 $v.autoscaling.maxReplicas)) -}}
{{- fail "autoscaling.minReplicas is greater than autoscaling.maxReplicas" -}}
{{- end -}}
{{- if and $v.keda.enabled (gt (int64 $v.keda.minReplicas) (int64 $v.keda.maxReplicas)) -}}
{{- fail "keda.minReplicas is greater than keda.maxReplicas" -}}
{{- end -}}
{{- if and $v.keda.enabled (not $v.keda.query) (not $v.metrics.serviceMonitor.enabled) (not $v.metrics.podMonitor.enabled) -}}
{{- fail "keda.query is required without metrics.serviceMonitor or metrics.podMonitor: the chart does not know the labels of your series" -}}
{{- end -}}
{{- if and $v.metrics.serviceMonitor.enabled $v.metrics.podMonitor.enabled -}}
{{- fail "metrics.serviceMonitor.enabled and metrics.podMonitor.enabled: choose one; with both, every series is counted twice" -}}
{{- end -}}
{{- if and $v.auth.existingSecret $v.auth.keys -}}
{{- fail "auth.existingSecret and auth.keys: choose one" -}}
{{- end -}}
{{- range $name, $redis := dict "limits.redis" $v.limits.redis "cache.redis" $v.cache.redis -}}
{{- if and $redis.existingSecret $redis.url -}}
{{- fail (printf "%s.existingSecret and %s.url: choose one" $name $name) -}}
{{- end -}}
{{- end -}}
{{- if and (or $v.limits.requestsPerMinute $v.limits.tokensPerMinute) (not $v.auth.existingSecret) (not $v.auth.keys) -}}
{{- fail "limits: requestsPerMinute and tokensPerMinute are limits for each API key; set auth.existingSecret" -}}
{{- end -}}
{{- if and (eq $v.model.source "imageVolume") (not $v.model.imageVolume.reference) -}}
{{- fail "model.imageVolume.reference is required by model.source imageVolume" -}}
{{- end -}}
{{- if and (eq $v.model.source "imageVolume") (semverCompare "<1.31.0-0" .Capabilities.KubeVersion.Version) -}}
{{- fail (printf "model.source imageVolume needs Kubernetes 1.31 or later; this is %s" .Capabilities.KubeVersion.Version) -}}
{{- end -}}
{{- if and (eq $v.model.source "pvc") (not $v.model.pvc.existingClaim) -}}
{{- fail "model.pvc.existingClaim is required by model.source pvc" -}}
{{- end -}}
{{- if eq $v.model.source "download" -}}
{{- if and $v.model.download.repo $v.model.download.url -}}
{{- fail "model.download.repo and model.download.url are both set; remove one of them" -}}
{{- end -}}
{{- if not (or $v.model.download.repo (and $v.model.download.url $v.model.download.sha256)) -}}
{{- fail "model.source download requires model.download.repo, or model.download.url and model.download.sha256" -}}
{{- end -}}
{{- end -}}
{{- if and (ne $v.model.source "image") (contains "[[models]]" $v.config) -}}
{{- fail (printf "config: [[models]] would be overridden by the model of model.source %s; remove one of them" $v.model.source) -}}
{{- end -}}
{{- range $name, $sets := dict
  "config" (regexMatch "(?m)^\\s*(server\\.)?path_prefix\\s*=" $v.config)
  "extraArgs" (contains "--path-prefix" (join " " $v.extraArgs))
  "extraEnv" (contains "name: EMBEDGATE_PATH_PREFIX" (toYaml $v.extraEnv))
-}}
{{- if $sets -}}
{{- fail (printf "%s: set pathPrefix instead; probes and scrapes would not follow a prefix that is set here" $name) -}}
{{- end -}}
{{- end -}}
{{- if and $v.networkPolicy.enabled (not $v.networkPolicy.egress) -}}
{{- range $name, $used := dict
  "limits.redis" (or $v.limits.redis.existingSecret $v.limits.redis.url)
  "cache.redis" (or $v.cache.redis.existingSecret $v.cache.redis.url)
  "tracing.otlpEndpoint" $v.tracing.otlpEndpoint
  "model.source download" (eq $v.model.source "download")
-}}
{{- if $used -}}
{{- fail (printf "networkPolicy.egress is empty and blocks %s: add a rule that allows it" $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and $v.ingress.enabled (not $v.ingress.hosts) -}}
{{- fail "ingress.hosts is empty" -}}
{{- end -}}
{{- if and $v.httpRoute.enabled (not $v.httpRoute.parentRefs) -}}
{{- fail "httpRoute.parentRefs is empty: name the Gateway of the route" -}}
{{- end -}}
{{- if and $v.metrics.dashboard.enabled (not (.Files.Glob "dashboards/*.json")) -}}
{{- fail "metrics.dashboard.enabled: this copy of the chart contains no dashboards/*.json" -}}
{{- end -}}
{{- if and $v.metrics.prometheusRule.enabled (not (.Files.Glob "rules/*.yaml")) -}}
{{- fail "metrics.prometheusRule.enabled: this copy of the chart contains no rules/*.yaml" -}}
{{- end -}}
{{- end -}}
