{{/*
The init container of model.source `download`: downloads, verifies and unpacks the model. It has the security context of
the gateway: no capabilities, and only the model's volume is writable.
*/}}
{{- define "embedgate.download" -}}
{{- $download := .Values.model.download -}}
- name: model
  image: {{ $download.image | quote }}
  imagePullPolicy: {{ $download.pullPolicy }}
  {{- if $download.command }}
  command:
    {{- toYaml $download.command | nindent 4 }}
  {{- else }}
  command:
    - sh
    - -ceu
    - |
      {{- .Files.Get "files/download.sh" | trim | nindent 6 }}
  {{- end }}
  env:
    - name: MODEL_URL
      value: {{ $download.url | quote }}
    - name: MODEL_SHA256
      value: {{ lower $download.sha256 | quote }}
    - name: STRIP_COMPONENTS
      value: {{ int64 $download.stripComponents | quote }}
    - name: MODEL_DIR
      value: {{ include "embedgate.modelDir" . | quote }}
    {{- with $download.extraEnv }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  resources:
    {{- toYaml $download.resources | nindent 4 }}
  securityContext:
    {{- toYaml .Values.securityContext | nindent 4 }}
  volumeMounts:
    - name: model
      mountPath: {{ .Values.model.mountPath | quote }}
{{- end -}}
