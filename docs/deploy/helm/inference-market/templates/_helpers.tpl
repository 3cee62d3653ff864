{{- define "market.labels" -}}
app.kubernetes.io/name: inference-market
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "market.security" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
runAsUser: 10001
capabilities: { drop: [ALL] }
{{- end }}

{{- define "market.environment" -}}
{{- range $name, $value := .Values.settings }}
- { name: {{ $name }}, value: {{ $value | quote }} }
{{- end }}
- { name: MARKET_HOST, value: 0.0.0.0 }
- { name: MARKET_SHARED_RESERVATIONS, value: "true" }
- { name: MARKET_DEPLOYMENT, value: /etc/market/deployment.json }
- { name: MARKET_KEYSTORE, value: /run/market/gateway.json }
- { name: MARKET_KEYSTORE_PASSWORD_FILE, value: /run/market/gateway.pass }
{{- range list "MARKET_DATABASE_URL" "MARKET_REDIS_URL" }}
- name: {{ . }}
  valueFrom: { secretKeyRef: { name: {{ $.Values.urlsSecret }}, key: {{ . }} } }
{{- end }}
{{- end }}

{{- define "market.mounts" -}}
- { name: secret, mountPath: /run/market, readOnly: true }
- { name: deployment, mountPath: /etc/market, readOnly: true }
- { name: tmp, mountPath: /tmp }
{{- end }}
