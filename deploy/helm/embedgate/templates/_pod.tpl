{{/* The pod: its container with volumes, probes and shutdown. */}}
{{- define "embedgate.pod" -}}
{{- $v := .Values -}}
serviceAccountName: {{ include "embedgate.serviceAccountName" . }}
automountServiceAccountToken: false
# For a Service called embedgate, Kubernetes would add variables such as EMBEDGATE_PORT to the environment.
enableServiceLinks: false
{{- with $v.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $v.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- if and $v.gpu.enabled $v.gpu.runtimeClassName }}
runtimeClassName: {{ $v.gpu.runtimeClassName }}
{{- end }}
terminationGracePeriodSeconds: {{ add (int64 $v.termination.preStopSeconds) (int64 $v.termination.shutdownDelaySeconds) (int64 $v.termination.drainSeconds) (int64 $v.termination.marginSeconds) }}
securityContext:
  {{- toYaml $v.podSecurityContext | nindent 2 }}
{{- if or (eq $v.model.source "download") $v.extraInitContainers }}
initContainers:
  {{- if eq $v.model.source "download" }}
  {{- include "embedgate.download" . | nindent 2 }}
  {{- end }}
  {{- with $v.extraInitContainers }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
containers:
  - name: embedgate
    image: {{ include "embedgate.image" . | quote }}
    imagePullPolicy: {{ $v.image.pullPolicy }}
    args:
      - serve
      {{- with $v.extraArgs }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    env:
      {{- include "embedgate.allEnv" . | nindent 6 }}
    {{- with $v.extraEnvFrom }}
    envFrom:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    ports:
      - name: http
        containerPort: 8080
        protocol: TCP
      - name: ops
        containerPort: 8081
        protocol: TCP
    {{- range $name, $path := dict "startup" "/startupz" "readiness" "/readyz" "liveness" "/livez" }}
    {{ $name }}Probe:
      httpGet:
        path: {{ $v.pathPrefix }}{{ $path }}
        port: ops
      {{- toYaml (index $v.probes $name) | nindent 6 }}
    {{- end }}
    {{- if $v.termination.preStopSeconds }}
    lifecycle:
      preStop:
        sleep:
          seconds: {{ int64 $v.termination.preStopSeconds }}
    {{- end }}
    {{- include "embedgate.resources" . | nindent 4 }}
    securityContext:
      {{- toYaml $v.securityContext | nindent 6 }}
    volumeMounts:
      {{- include "embedgate.volumeMounts" . | nindent 6 }}
  {{- with $v.extraContainers }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
volumes:
  {{- include "embedgate.volumes" . | nindent 2 }}
{{- with $v.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with concat $v.tolerations (ternary $v.gpu.tolerations list $v.gpu.enabled) }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $v.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if $v.topologySpread.enabled }}
topologySpreadConstraints:
  {{- range $v.topologySpread.topologyKeys }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: {{ $v.topologySpread.whenUnsatisfiable }}
    # Pods of each version are spread separately; otherwise pods of the old version would determine the places of
    # the new ones.
    matchLabelKeys:
      - pod-template-hash
    labelSelector:
      matchLabels:
        {{- include "embedgate.selectorLabels" $ | nindent 8 }}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "embedgate.resources" -}}
{{- $resources := deepCopy .Values.resources -}}
{{- if .Values.gpu.enabled -}}
{{- $limits := merge (dict .Values.gpu.resourceName (int64 .Values.gpu.count)) (default dict $resources.limits) -}}
{{- $resources = merge (dict "limits" $limits) $resources -}}
{{- end -}}
{{- if $resources -}}
resources:
  {{- toYaml $resources | nindent 2 }}
{{- else -}}
resources: {}
{{- end -}}
{{- end -}}

{{- define "embedgate.volumeMounts" -}}
{{- $v := .Values -}}
- name: tmp
  mountPath: /tmp
{{- if ne $v.model.source "image" }}
- name: model
  mountPath: {{ ternary $v.model.mountPath (include "embedgate.modelDir" .) (eq $v.model.source "download") | quote }}
  readOnly: true
  {{- if and (eq $v.model.source "pvc") $v.model.pvc.subPath }}
  subPath: {{ $v.model.pvc.subPath | quote }}
  {{- end }}
{{- end }}
{{- if $v.config }}
- name: config
  mountPath: /etc/embedgate/config
  readOnly: true
{{- end }}
{{- if or $v.auth.existingSecret $v.auth.keys }}
- name: keys
  mountPath: /etc/embedgate/keys
  readOnly: true
{{- end }}
{{- if $v.tls.existingSecret }}
- name: tls
  mountPath: /etc/embedgate/tls
  readOnly: true
{{- end }}
{{- with $v.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Secrets are mounted as whole volumes: a mount by subPath is not updated when the Secret changes. */}}
{{- define "embedgate.volumes" -}}
{{- $v := .Values -}}
- name: tmp
  emptyDir:
    sizeLimit: {{ $v.tmpSizeLimit }}
{{- if eq $v.model.source "imageVolume" }}
- name: model
  image:
    reference: {{ $v.model.imageVolume.reference | quote }}
    pullPolicy: {{ $v.model.imageVolume.pullPolicy }}
{{- else if eq $v.model.source "pvc" }}
- name: model
  persistentVolumeClaim:
    claimName: {{ $v.model.pvc.existingClaim }}
    readOnly: true
{{- else if eq $v.model.source "download" }}
- name: model
  emptyDir:
    sizeLimit: {{ $v.model.download.sizeLimit }}
{{- end }}
{{- if $v.config }}
- name: config
  configMap:
    name: {{ include "embedgate.fullname" . }}
{{- end }}
{{- if or $v.auth.existingSecret $v.auth.keys }}
- name: keys
  secret:
    secretName: {{ default (printf "%s-keys" (include "embedgate.fullname" .)) $v.auth.existingSecret }}
    # Readable only by the pod's group.
    defaultMode: 0440
{{- end }}
{{- if $v.tls.existingSecret }}
- name: tls
  secret:
    secretName: {{ $v.tls.existingSecret }}
    defaultMode: 0440
{{- end }}
{{- with $v.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}
