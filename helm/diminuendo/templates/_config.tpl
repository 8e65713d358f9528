{{/* The one file of settings, for the conductor and the coordinator; unknown keys are refused by both. */}}
{{- define "diminuendo.config" -}}
log_level = {{ .Values.log.level | quote }}
log_style = {{ .Values.log.style | quote }}
{{- with .Values.monitoring.traces.endpoint }}
traces = {{ . | quote }}
{{- end }}

[conductor]
data_dir = "/data"
host = "0.0.0.0"
port = 50300
http_port = 50301
lease_s = {{ float64 .Values.conductor.leaseSeconds }}
drain_s = {{ float64 .Values.conductor.drainSeconds }}
artifacts = {{ include "diminuendo.artifacts" . | quote }}
{{- with .Values.conductor.weights }}
weights = { {{- range $i, $project := keys . | sortAlpha }}{{ if $i }}, {{ end }}{{ $project | quote }} = {{ get $.Values.conductor.weights $project }}{{ end -}} }
{{- end }}
max_artifact_bytes = {{ int64 .Values.conductor.maxArtifactBytes }}
max_bundle_bytes = {{ int64 .Values.conductor.maxBundleBytes }}
keep_s = {{ int64 .Values.conductor.keepSeconds }}
collect_every_s = {{ int64 .Values.conductor.collectEverySeconds }}
{{- if include "diminuendo.tokensSecret" . }}
tokens_file = "/etc/diminuendo/tokens/tokens.toml"
{{- end }}
{{- if .Values.tls.enabled }}
tls_cert_file = "/etc/diminuendo/tls/tls.crt"
tls_key_file = "/etc/diminuendo/tls/tls.key"
{{- if .Values.tls.clientCaSecret }}
tls_client_ca_file = "/etc/diminuendo/client-ca/ca.crt"
{{- end }}
{{- end }}
{{- if eq .Values.ray.mode "provider" }}
cluster = "kuberay"
cluster_scope = {{ .Values.ray.provider.scope | quote }}
cluster_template = "/etc/diminuendo/config/raycluster.yaml"
cluster_namespace = {{ .Release.Namespace | quote }}
cluster_instance = {{ .Release.Name | quote }}
cluster_conductor = {{ include "diminuendo.conductorAddress" . | quote }}
cluster_jobs = {{ int .Values.coordinator.jobs }}
cluster_evaluators_per_job = {{ int .Values.ray.provider.evaluatorsPerJob }}
cluster_idle_s = {{ int64 .Values.ray.autoscaling.idleSeconds }}
cluster_keep_s = {{ int64 .Values.ray.provider.keepSeconds }}
{{- end }}
{{- if ne .Values.ray.mode "none" }}

[coordinator]
{{- if include "diminuendo.placesCoordinator" . }}
name = {{ .Release.Name | quote }}
conductor = {{ include "diminuendo.conductorAddress" . | quote }}
artifacts = {{ include "diminuendo.artifacts" . | quote }}
ray_address = {{ include "diminuendo.rayAddress" . | quote }}
jobs = {{ int .Values.coordinator.jobs }}
{{- end }}
work_timeout_s = {{ int64 .Values.coordinator.workTimeoutSeconds }}
{{- if .Values.coordinator.evaluators }}
evaluators = {{ int .Values.coordinator.evaluators }}
{{- else if eq .Values.ray.mode "rendered" }}
evaluators = {{ include "diminuendo.evaluators" . }}
{{- end }}
{{- if eq .Values.ray.mode "rendered" }}
evaluator_gpus = {{ ternary 1 0 (not (empty (include "diminuendo.hasGpus" .))) }}
{{- if .Values.ray.autoscaling.enabled }}
idle_s = {{ int64 .Values.ray.autoscaling.idleSeconds }}
{{- end }}
{{- end }}
{{- if .Values.coordinator.evaluatorMemoryGb }}
evaluator_memory_gb = {{ .Values.coordinator.evaluatorMemoryGb }}
{{- end }}
{{- if .Values.tokens.coordinator.existingSecret }}
token_file = "/etc/diminuendo/token/token"
{{- if not .Values.tls.enabled }}
allow_insecure_token = true
{{- end }}
{{- end }}
{{- if .Values.tls.enabled }}
tls = true
{{- if .Values.tls.caKey }}
ca_file = "/etc/diminuendo/ca/ca.crt"
{{- end }}
{{- if .Values.tls.coordinatorSecret }}
cert_file = "/etc/diminuendo/certificate/tls.crt"
key_file = "/etc/diminuendo/certificate/tls.key"
{{- end }}
{{- end }}
{{- end }}
{{- end -}}
