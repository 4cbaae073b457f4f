{{/*
The container's environment: the chart's values as settings of the program. A Secret becomes a variable only if the
program cannot read that setting from a file.
*/}}
{{- define "embedgate.env" -}}
{{- $v := .Values -}}
- name: EMBEDGATE_LISTEN
  value: 0.0.0.0:8080
# Probes and metrics have their own port: they require no API key and use no TLS.
- name: EMBEDGATE_OPS_LISTEN
  value: 0.0.0.0:8081
# During preStop, new connections stop arriving. After SIGTERM, responses tell clients to close kept-alive connections
# for this long.
- name: EMBEDGATE_SHUTDOWN_DELAY
  value: {{ int64 $v.termination.shutdownDelaySeconds }}s
- name: EMBEDGATE_DRAIN_TIMEOUT
  value: {{ int64 $v.termination.drainSeconds }}s
- name: EMBEDGATE_LOG_FORMAT
  value: {{ $v.log.format }}
{{- with $v.log.filter }}
- name: EMBEDGATE_LOG_FILTER
  value: {{ . | quote }}
{{- end }}
{{- if $v.config }}
- name: EMBEDGATE_CONFIG
  value: /etc/embedgate/config/embedgate.toml
{{- end }}
{{- if ne $v.model.source "image" }}
- name: EMBEDGATE_MODELS
  value: {{ include "embedgate.modelDir" . | quote }}
{{- end }}
{{- if $v.gpu.enabled }}
- name: EMBEDGATE_PROVIDER
  value: cuda
{{- end }}
{{- if or $v.auth.existingSecret $v.auth.keys }}
- name: EMBEDGATE_API_KEYS_FILE
  value: /etc/embedgate/keys/{{ include "embedgate.keysKey" . }}
{{- end }}
{{- with int64 $v.limits.requestsPerMinute }}
- name: EMBEDGATE_KEY_REQUESTS_PER_MINUTE
  value: {{ . | quote }}
{{- end }}
{{- with int64 $v.limits.tokensPerMinute }}
- name: EMBEDGATE_KEY_TOKENS_PER_MINUTE
  value: {{ . | quote }}
{{- end }}
{{- if or $v.limits.redis.existingSecret $v.limits.redis.url }}
- name: EMBEDGATE_LIMITS_REDIS_URL
  valueFrom:
    secretKeyRef:
      name: {{ default (printf "%s-redis" (include "embedgate.fullname" .)) $v.limits.redis.existingSecret }}
      key: {{ ternary $v.limits.redis.existingSecretKey "limits-url" (ne $v.limits.redis.existingSecret "") }}
- name: EMBEDGATE_LIMITS_REDIS_FAILURE_MODE
  value: {{ $v.limits.redis.failureMode }}
{{- end }}
{{- if $v.tls.existingSecret }}
- name: EMBEDGATE_TLS_CERTIFICATE
  value: /etc/embedgate/tls/tls.crt
- name: EMBEDGATE_TLS_KEY
  value: /etc/embedgate/tls/tls.key
{{- end }}
{{- with $v.cors.origins }}
- name: EMBEDGATE_CORS_ORIGINS
  value: {{ join "," . | quote }}
{{- end }}
{{- with $v.pathPrefix }}
- name: EMBEDGATE_PATH_PREFIX
  value: {{ . | quote }}
{{- end }}
{{- with $v.cache.memory }}
- name: EMBEDGATE_CACHE_MEMORY
  value: {{ . | quote }}
{{- end }}
{{- if or $v.cache.redis.existingSecret $v.cache.redis.url }}
- name: EMBEDGATE_CACHE_REDIS_URL
  valueFrom:
    secretKeyRef:
      name: {{ default (printf "%s-redis" (include "embedgate.fullname" .)) $v.cache.redis.existingSecret }}
      key: {{ ternary $v.cache.redis.existingSecretKey "cache-url" (ne $v.cache.redis.existingSecret "") }}
{{- end }}
{{- with $v.tracing.otlpEndpoint }}
- name: EMBEDGATE_OTLP_ENDPOINT
  value: {{ . | quote }}
- name: EMBEDGATE_TRACE_SAMPLE_RATIO
  value: {{ $v.tracing.sampleRatio | quote }}
{{- end }}
{{- end -}}

{{- define "embedgate.modelDir" -}}
{{ trimSuffix "/" .Values.model.mountPath }}/{{ .Values.model.name }}
{{- end -}}

{{/* The key of the Secret with the API keys, which is also the name of the mounted file. */}}
{{- define "embedgate.keysKey" -}}
{{ ternary .Values.auth.existingSecretKey "keys" (ne .Values.auth.existingSecret "") }}
{{- end -}}

{{/* `embedgate.env` and extraEnv. Kubernetes versions differ in how they treat a duplicate name, so it is an error here. */}}
{{- define "embedgate.allEnv" -}}
{{- $own := include "embedgate.env" . -}}
{{- range .Values.extraEnv -}}
{{- if contains (printf "- name: %s\n" .name) $own -}}
{{- fail (printf "extraEnv: %s is set by the chart; set the chart's value for it instead" .name) -}}
{{- end -}}
{{- end -}}
{{ $own }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}
