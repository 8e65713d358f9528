{{/* What a pod of the restricted Pod Security standard needs; the images' user. */}}
{{- define "diminuendo.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "diminuendo.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
seccompProfile: {type: RuntimeDefault}
capabilities: {drop: [ALL]}
{{- end -}}

{{/* Where the settings are. Everything that is no secret is in that one file. */}}
{{- define "diminuendo.configEnv" -}}
- name: DIMINUENDO_CONFIG
  value: /etc/diminuendo/config/diminuendo.toml
{{- end -}}

{{- define "diminuendo.s3Env" -}}
{{- if and (eq .Values.artifacts.kind "s3") (include "diminuendo.s3Secret" .) -}}
- name: AWS_ACCESS_KEY_ID
  valueFrom:
    secretKeyRef: {name: {{ include "diminuendo.s3Secret" . }}, key: AWS_ACCESS_KEY_ID}
- name: AWS_SECRET_ACCESS_KEY
  valueFrom:
    secretKeyRef: {name: {{ include "diminuendo.s3Secret" . }}, key: AWS_SECRET_ACCESS_KEY}
{{- end }}
{{- end -}}

{{- define "diminuendo.rayEnv" -}}
- name: RAY_AUTH_MODE
  value: token
- name: RAY_AUTH_TOKEN
  valueFrom:
    secretKeyRef: {name: {{ include "diminuendo.raySecret" . }}, key: auth_token}
- name: RAY_USAGE_STATS_ENABLED
  value: "0"
{{- end -}}

{{/* What a coordinator reads from files beside its settings: its token, its certificate, and the CA of the
     conductor's. */}}
{{- define "diminuendo.coordinatorMounts" -}}
- {name: config, mountPath: /etc/diminuendo/config, readOnly: true}
{{- if .Values.tokens.coordinator.existingSecret }}
- {name: coordinator-token, mountPath: /etc/diminuendo/token, readOnly: true}
{{- end }}
{{- if and .Values.tls.enabled .Values.tls.caKey }}
- {name: conductor-ca, mountPath: /etc/diminuendo/ca, readOnly: true}
{{- end }}
{{- if .Values.tls.coordinatorSecret }}
- {name: certificate, mountPath: /etc/diminuendo/certificate, readOnly: true}
{{- end }}
{{- end -}}

{{- define "diminuendo.coordinatorVolumes" -}}
- name: config
  configMap: {name: {{ include "diminuendo.fullname" . }}}
{{- with .Values.tokens.coordinator.existingSecret }}
- name: coordinator-token
  secret:
    secretName: {{ . }}
    defaultMode: 0440
    items: [{key: {{ $.Values.tokens.coordinator.key }}, path: token}]
{{- end }}
{{- if and .Values.tls.enabled .Values.tls.caKey }}
- name: conductor-ca
  secret:
    secretName: {{ .Values.tls.existingSecret }}
    items: [{key: {{ .Values.tls.caKey }}, path: ca.crt}]
{{- end }}
{{- with .Values.tls.coordinatorSecret }}
- name: certificate
  secret:
    secretName: {{ . }}
    defaultMode: 0440
    items: [{key: tls.crt, path: tls.crt}, {key: tls.key, path: tls.key}]
{{- end }}
{{- end -}}

{{- define "diminuendo.artifactsVolume" -}}
{{- if eq .Values.artifacts.kind "volume" -}}
- name: artifacts
  persistentVolumeClaim:
    claimName: {{ .Values.artifacts.volume.existingClaim | default (printf "%s-artifacts" (include "diminuendo.fullname" .)) }}
{{- end }}
{{- end -}}
