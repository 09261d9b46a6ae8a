{{/* The service. Whether it lives is seen by its metrics and not by /ready, which depends on others too. */}}
{{- define "sallyport.serve" -}}
args: [serve]
{{ include "sallyport.program" . }}
ports:
  - name: admin
    containerPort: 9902
  {{- if not .Values.gateway }}
  - name: grpc
    containerPort: 9000
  - name: hub
    containerPort: 9001
  {{- end }}
startupProbe:
  httpGet:
    path: /metrics
    port: admin
  periodSeconds: 1
  timeoutSeconds: {{ .Values.probes.timeoutSeconds }}
  failureThreshold: {{ .Values.probes.startupSeconds }}
livenessProbe:
  httpGet:
    path: /metrics
    port: admin
  {{- include "sallyport.probe" . | nindent 2 }}
readinessProbe:
  httpGet:
    path: /ready
    port: admin
  {{- include "sallyport.probe" . | nindent 2 }}
{{- end }}

{{/* Envoy. An agent's way through it is what makes it ready: /status is answered by the service. */}}
{{- define "sallyport.envoy" -}}
image: {{ include "sallyport.image" (dict "image" .Values.envoy.image "tag" "") | quote }}
imagePullPolicy: {{ .Values.envoy.image.pullPolicy }}
command: [/usr/local/bin/envoy]
args:
  - --config-path
  - /run/sallyport/envoy.yaml
  - --disable-hot-restart
  - --concurrency
  - {{ .Values.envoy.concurrency | quote }}
  - --log-level
  - {{ .Values.envoy.logLevel | quote }}
securityContext:
  {{- include "sallyport.containerSecurity" . | nindent 2 }}
ports:
  - name: agents
    containerPort: 8080
startupProbe:
  tcpSocket:
    port: agents
  periodSeconds: 1
  failureThreshold: {{ .Values.probes.startupSeconds }}
livenessProbe:
  tcpSocket:
    port: agents
  {{- include "sallyport.probe" . | nindent 2 }}
readinessProbe:
  httpGet:
    path: {{ default "/status" (default dict (include "sallyport.config" . | fromYaml).health).location }}
    port: agents
    {{- if include "sallyport.tls" . }}
    scheme: HTTPS
    {{- end }}
  {{- include "sallyport.probe" . | nindent 2 }}
lifecycle:
  preStop:
    sleep:
      seconds: {{ .Values.drainSeconds }}
resources:
  {{- toYaml .Values.envoy.resources | nindent 2 }}
volumeMounts:
  - name: run
    mountPath: /run/sallyport
  {{- with include "sallyport.mounts" . }}{{ . | trim | nindent 2 }}{{ end }}
{{- end }}
