{{- define "sallyport.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 52 | trimSuffix "-" }}
{{- end }}

{{- define "sallyport.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else if contains (include "sallyport.name" .) .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "sallyport.name" .) | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "sallyport.selector" -}}
app.kubernetes.io/name: {{ include "sallyport.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "sallyport.labels" -}}
{{ include "sallyport.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: {{ ternary "gateway" "service" .Values.gateway }}
app.kubernetes.io/part-of: sallyport
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "sallyport.serviceAccount" -}}
{{- default (ternary (include "sallyport.fullname" .) "default" .Values.serviceAccount.create) .Values.serviceAccount.name }}
{{- end }}

{{/* An image by its digest if there is one, otherwise by its tag. The argument: image, and the tag of one that names none. */}}
{{- define "sallyport.image" -}}
{{- $i := .image -}}
{{- if $i.digest -}}
{{- printf "%s@%s" $i.repository $i.digest }}
{{- else -}}
{{- printf "%s:%s" $i.repository (required (printf "%s: an image needs a tag or a digest" $i.repository) (default .tag $i.tag)) }}
{{- end }}
{{- end }}

{{/* The number of pods is more than one, now or when there is much to do. */}}
{{- define "sallyport.several" -}}
{{- if or (and .Values.autoscaling.enabled (gt (int .Values.autoscaling.maxReplicas) 1)) (and (not .Values.autoscaling.enabled) (gt (int .Values.replicas) 1)) }}true{{ end }}
{{- end }}

{{/* The agents' listener speaks TLS. */}}
{{- define "sallyport.tls" -}}
{{- if or .Values.tls.existingSecret (dig "http" "tls" "" (include "sallyport.config" . | fromYaml)) }}true{{ end }}
{{- end }}

{{/* No value can weaken what a container may do. */}}
{{- define "sallyport.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "sallyport.probe" -}}
periodSeconds: {{ .Values.probes.periodSeconds }}
timeoutSeconds: {{ .Values.probes.timeoutSeconds }}
failureThreshold: {{ .Values.probes.failureThreshold }}
{{- end }}

{{/* What every run of the program needs: where the configuration is, and the secrets. */}}
{{- define "sallyport.program" -}}
image: {{ include "sallyport.image" (dict "image" .Values.image "tag" .Chart.AppVersion) | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  {{- include "sallyport.containerSecurity" . | nindent 2 }}
env:
  - name: SALLYPORT_CONFIG
    value: /etc/sallyport/sallyport.yaml
  # The sockets. One directory further in, because the service trusts none that everybody can write to, as an emptyDir is.
  - name: XDG_RUNTIME_DIR
    value: /run/sallyport/sockets
  {{- if .Values.existingSecret }}
  - name: SALLYPORT_SECRET_PROVIDER
    value: secretfile:///etc/sallyport/secrets.yaml
  {{- end }}
resources:
  {{- toYaml .Values.resources | nindent 2 }}
volumeMounts:
  - name: config
    mountPath: /etc/sallyport
    readOnly: true
  - name: run
    mountPath: /run/sallyport
  {{- with include "sallyport.mounts" . }}{{ . | trim | nindent 2 }}{{ end }}
{{- end }}

{{/* What Envoy and the program both see. */}}
{{- define "sallyport.mounts" -}}
{{- if .Values.tls.existingSecret }}
- name: tls
  mountPath: /etc/sallyport-tls
  readOnly: true
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}
