{{/*
The configuration as it is given, parsed. Helm takes the first of several documents for the whole, so several are refused.
*/}}
{{- define "sallyport.given" -}}
{{- $c := .Values.config -}}
{{- if kindIs "string" $c -}}
{{- if regexMatch "(?m)^---(\\s|$)" (regexReplaceAll "^(\\s|#[^\n]*\n)*---([ \t][^\n]*)?\n" $c "") -}}
{{- fail "config: it has several YAML documents; join them, or put the file into a ConfigMap and name it as existingConfigMap" }}
{{- end -}}
{{- $c = fromYaml $c -}}
{{- if hasKey $c "Error" }}{{ fail (printf "config: it is not YAML: %s" (get $c "Error")) }}{{ end -}}
{{- end -}}
{{- toYaml $c }}
{{- end }}

{{/*
The configuration of the pod: as given, with the addresses that the rest of the chart refers to.

The pod's own Envoy is seen to ask the service, unless the configuration says where else, or `off`.

The kubelet has to reach the admin port, so it cannot be on loopback; the NetworkPolicy keeps others off.
*/}}
{{- define "sallyport.config" -}}
{{- $c := include "sallyport.given" . | fromYaml -}}
{{- if $c -}}
{{- $http := default dict $c.http -}}
{{- $service := default dict $c.service -}}
{{- if .Values.gateway -}}
{{- $http = merge (dict "address" "0.0.0.0:8080") $http -}}
{{- $service = omit $service "address" "hub" "upstreams" -}}
{{- if .Values.tls.existingSecret -}}
{{- $http = merge (dict "tls" "chart") $http -}}
{{- $files := dict "certFile" "/etc/sallyport-tls/tls.crt" "keyFile" "/etc/sallyport-tls/tls.key" -}}
{{- $_ := set $c "tls" (merge (dict "chart" $files) (default dict $c.tls)) -}}
{{- end -}}
{{- $service = merge $service (dict "canary" (printf "%s://127.0.0.1:8080" (ternary "https" "http" (not (empty $http.tls))))) -}}
{{- else -}}
{{- $service = merge (dict "address" "0.0.0.0:9000" "hub" "0.0.0.0:9001" "upstreams" "direct") $service -}}
{{- end -}}
{{- $_ := set $c "http" $http -}}
{{- $c = omit $c "service" -}}
{{- if $service }}{{ $_ := set $c "service" $service }}{{ end -}}
{{- $_ := set $c "admin" (merge (dict "address" "0.0.0.0:9902") (default dict $c.admin)) -}}
{{- toYaml $c }}
{{- end -}}
{{- end }}

{{/* Fails on what would not work, or would put a secret where everybody can read it. */}}
{{- define "sallyport.check" -}}
{{- $v := .Values -}}
{{- $c := include "sallyport.given" . | fromYaml -}}
{{- if and $c $v.existingConfigMap }}{{ fail "config and existingConfigMap: give one of them" }}{{ end -}}
{{- if not (or $c $v.existingConfigMap) }}{{ fail "config is missing: give the configuration (--set-file config=sallyport.yaml), or the name of a ConfigMap as existingConfigMap" }}{{ end -}}
{{- if and $v.policies $v.existingPolicies }}{{ fail "policies and existingPolicies: give one of them" }}{{ end -}}
{{- range $name, $_ := $v.policies }}
{{- if has $name (list "sallyport.yaml" "secrets.yaml") }}{{ fail (printf "policies: %s is the name of another file" $name) }}{{ end -}}
{{- end -}}
{{- if lt (int $v.terminationGracePeriodSeconds) (add (int $v.drainSeconds) 25 | int) }}{{ fail (printf "terminationGracePeriodSeconds: %d is less than drainSeconds + 25, so calls would be cut off" (int $v.terminationGracePeriodSeconds)) }}{{ end -}}
{{- if and $v.autoscaling.enabled (lt (int $v.autoscaling.maxReplicas) (int $v.autoscaling.minReplicas)) }}{{ fail "autoscaling: maxReplicas is less than minReplicas" }}{{ end -}}
{{- if and (not $v.gateway) $v.tls.existingSecret }}{{ fail "tls.existingSecret: without a gateway agents connect to somebody else's listener" }}{{ end -}}
{{- if and (not $v.gateway) $v.networkPolicy.enabled (not $v.networkPolicy.ingress) }}{{ fail "networkPolicy.ingress: say which pods the Envoy is in, since whoever connects to the service can obtain exchanged tokens" }}{{ end -}}
{{- if $c }}{{ include "sallyport.checkConfig" (list $c (include "sallyport.several" .)) }}{{ end -}}
{{- end }}

{{- define "sallyport.checkConfig" -}}
{{- $c := index . 0 -}}
{{- $several := index . 1 -}}
{{- $session := default dict $c.session -}}
{{- if $several -}}
{{- if has (default "memory" $session.store) (list "memory" "") }}{{ fail "replicas: several need a store that they share; set config.session.store, best as a reference: <sallyport.sessionStore>" }}{{ end -}}
{{- if not $session.key }}{{ fail "replicas: several seal session ids with one key; set config.session.key as a reference: <sallyport.sessionKey>" }}{{ end -}}
{{- end -}}
{{- include "sallyport.checkReference" (list "session.key" $session.key) -}}
{{- if and (contains "@" (default "" $session.store)) (not (contains "<" $session.store)) }}{{ fail "config.session.store has a password in it, and a ConfigMap is no place for it; write the password, or the whole, as a reference: <sallyport.sessionStore>" }}{{ end -}}
{{- range $i, $connector := $c.connectors -}}
{{- range $key := list "oauthClientSecret" "privateKey" "keys" }}{{ include "sallyport.checkReference" (list (printf "connectors[%d].%s" $i $key) (get $connector $key)) }}{{ end -}}
{{- if and $several (eq (default "" $connector.type) "sts") (not (or $connector.keys $connector.keyDir)) }}{{ fail (printf "replicas: several that mint tokens need the same keys; set config.connectors[%d].keys or keyDir" $i) }}{{ end -}}
{{- end -}}
{{- range $i, $client := (default dict $c.authProvider).clients }}{{ include "sallyport.checkReference" (list (printf "authProvider.clients[%d].secret" $i) $client.secret) }}{{ end -}}
{{- $audit := default "" (default dict $c.audit).file -}}
{{- if and $audit (not (hasPrefix "/" $audit)) }}{{ fail "config.audit.file is relative, and the pod's own files cannot be written; remove it, so that records go to the log, or name a path in one of extraVolumes" }}{{ end -}}
{{- end }}

{{/* A secret in the configuration is a reference and nothing else. The value is not repeated. */}}
{{- define "sallyport.checkReference" -}}
{{- $value := default "" (index . 1) | toString -}}
{{- if and $value (not (regexMatch "^<[A-Za-z0-9_.-]+>$" $value)) }}{{ fail (printf "config.%s is written out, and a ConfigMap is no place for a secret; write a reference such as <gateway.secret>, and put the value into the Secret that existingSecret names" (index . 0)) }}{{ end -}}
{{- end }}
