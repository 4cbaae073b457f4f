{{/* Names and labels of the release's objects. */}}

{{- define "embedgate.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* Names have at most 63 characters; 52 leave space for the longest suffix, `-dashboard`. */}}
{{- define "embedgate.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $full .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- define "embedgate.metricsName" -}}
{{- include "embedgate.fullname" . }}-metrics
{{- end -}}

{{- define "embedgate.serviceAccountName" -}}
{{- default (ternary (include "embedgate.fullname" .) "default" .Values.serviceAccount.create) .Values.serviceAccount.name -}}
{{- end -}}

{{/* Labels that select the pods. A Deployment's selector is immutable, so they are the same in every version. */}}
{{- define "embedgate.selectorLabels" -}}
app.kubernetes.io/name: {{ include "embedgate.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: gateway
{{- end -}}

{{- define "embedgate.labels" -}}
{{- $own := dict
  "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-")
  "app.kubernetes.io/name" (include "embedgate.name" .)
  "app.kubernetes.io/instance" .Release.Name
  "app.kubernetes.io/version" .Chart.AppVersion
  "app.kubernetes.io/managed-by" .Release.Service
  "app.kubernetes.io/part-of" "embedgate"
-}}
{{- toYaml (merge $own .Values.commonLabels) -}}
{{- end -}}

{{/* The labels of an object together with additional ones: `dict "root" . "labels" MAP`. */}}
{{- define "embedgate.labelsWith" -}}
{{- toYaml (merge (include "embedgate.labels" .root | fromYaml) .labels) -}}
{{- end -}}

{{- define "embedgate.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ default (printf "%s%s" $.Chart.AppVersion (ternary "-cuda" "" $.Values.gpu.enabled)) .tag }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Minimum number of pods, set by replicaCount or by an autoscaler. */}}
{{- define "embedgate.minReplicas" -}}
{{- if .Values.autoscaling.enabled -}}
{{ int64 .Values.autoscaling.minReplicas }}
{{- else if .Values.keda.enabled -}}
{{ int64 .Values.keda.minReplicas }}
{{- else -}}
{{ int64 .Values.replicaCount }}
{{- end -}}
{{- end -}}
