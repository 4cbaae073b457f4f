{{/*
The init container of model.source `download`: the gateway's own `embedgate model pull`, from a hub or from an archive. It
has the security context of the gateway: no capabilities, and only the model's volume is writable.
*/}}
{{- define "embedgate.download" -}}
{{- $download := .Values.model.download -}}
- name: model
  image: {{ include "embedgate.image" . | quote }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  args:
    - model
    - pull
    {{- if $download.repo }}
    - {{ $download.repo | quote }}
    {{- else }}
    - {{ printf "--from=%s" $download.url | quote }}
    - {{ printf "--sha256=%s" (lower $download.sha256) | quote }}
    {{- end }}
    - {{ printf "--to=%s" (include "embedgate.modelDir" .) | quote }}
  {{- if or $download.endpoint $download.extraEnv }}
  env:
    {{- with $download.endpoint }}
    - name: HF_ENDPOINT
      value: {{ . | quote }}
    {{- end }}
    {{- with $download.extraEnv }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- end }}
  resources:
    {{- toYaml $download.resources | nindent 4 }}
  securityContext:
    {{- toYaml .Values.securityContext | nindent 4 }}
  volumeMounts:
    - name: model
      mountPath: {{ .Values.model.mountPath | quote }}
{{- end -}}
