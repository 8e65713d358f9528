{{/* Beginning of all names. 37 characters leave room for KubeRay's -head-svc and its limit of 50. */}}
{{- define "diminuendo.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 37 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 37 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 37 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "diminuendo.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "diminuendo.conductor" -}}
{{ include "diminuendo.fullname" . }}-conductor
{{- end -}}

{{/* Where coordinators reach the conductor. */}}
{{- define "diminuendo.conductorAddress" -}}
{{ include "diminuendo.conductor" . }}.{{ .Release.Namespace }}.svc:{{ .Values.service.port }}
{{- end -}}

{{/* Labels that never change in the life of a release: a Deployment's selector may not. */}}
{{- define "diminuendo.selector" -}}
app.kubernetes.io/name: {{ include "diminuendo.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "diminuendo.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "diminuendo.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: diminuendo
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- end -}}

{{/* Labels of Ray's pods. KubeRay's services select by app.kubernetes.io/name, which is therefore left to it. */}}
{{- define "diminuendo.rayLabels" -}}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
app.kubernetes.io/part-of: diminuendo
{{- end -}}

{{/* Reference of an image: give image (its values) and root. */}}
{{- define "diminuendo.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ .image.tag | default .root.Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- define "diminuendo.pullSecrets" -}}
{{- with .Values.image.pullSecrets -}}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "diminuendo.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{ .Values.serviceAccount.name | default (include "diminuendo.conductor" .) }}
{{- else -}}
{{ .Values.serviceAccount.name | default "default" }}
{{- end -}}
{{- end -}}

{{/* Whether a coordinator is placed by this chart. */}}
{{- define "diminuendo.placesCoordinator" -}}
{{- if has .Values.ray.mode (list "rendered" "external") -}}true{{- end -}}
{{- end -}}

{{- define "diminuendo.raySecret" -}}
{{ .Values.ray.auth.existingSecret | default (printf "%s-ray-token" (include "diminuendo.fullname" .)) }}
{{- end -}}

{{- define "diminuendo.s3Secret" -}}
{{- if .Values.artifacts.s3.existingSecret -}}
{{ .Values.artifacts.s3.existingSecret }}
{{- else if .Values.artifacts.s3.accessKeyId -}}
{{ include "diminuendo.fullname" . }}-s3
{{- end -}}
{{- end -}}

{{- define "diminuendo.tokensSecret" -}}
{{- if .Values.tokens.existingSecret -}}
{{ .Values.tokens.existingSecret }}
{{- else if .Values.tokens.toml -}}
{{ include "diminuendo.fullname" . }}-tokens
{{- end -}}
{{- end -}}

{{/* Address of Ray's dashboard, where the Jobs REST API is. */}}
{{- define "diminuendo.rayAddress" -}}
{{- if eq .Values.ray.mode "external" -}}
{{ .Values.ray.address }}
{{- else -}}
http://{{ include "diminuendo.fullname" . }}-head-svc.{{ .Release.Namespace }}.svc:8265
{{- end -}}
{{- end -}}

{{- define "diminuendo.artifacts" -}}
{{- if eq .Values.artifacts.kind "s3" -}}
{{- $s3 := .Values.artifacts.s3 -}}
{{- $options := list -}}
{{- with $s3.endpointUrl }}{{ $options = append $options (printf "endpoint_url=%s" .) }}{{ end -}}
{{- with $s3.region }}{{ $options = append $options (printf "region=%s" .) }}{{ end -}}
s3://{{ $s3.bucket }}{{ with $s3.prefix }}/{{ trimAll "/" . }}{{ end }}{{ with $options }}?{{ join "&" . }}{{ end }}
{{- else -}}
/artifacts
{{- end -}}
{{- end -}}

{{/* Port of a URL. */}}
{{- define "diminuendo.port" -}}
{{- $url := urlParse . -}}
{{- if regexMatch ":[0-9]+$" $url.host -}}
{{ regexFind "[0-9]+$" $url.host }}
{{- else -}}
{{ ternary "80" "443" (eq $url.scheme "http") }}
{{- end -}}
{{- end -}}

{{/* Evaluators of the groups at their largest: GPUs where a group has some, else CPUs. */}}
{{- define "diminuendo.evaluators" -}}
{{- $gpus := 0 -}}
{{- $cpus := 0 -}}
{{- range .Values.ray.workerGroups -}}
{{- if eq .kind "gpu" -}}
{{- $gpus = add $gpus (mul (int .maxReplicas) (int .gpus)) -}}
{{- else -}}
{{- $cpus = add $cpus (mul (int .maxReplicas) (int .resources.limits.cpu)) -}}
{{- end -}}
{{- end -}}
{{- $gpus | default $cpus -}}
{{- end -}}

{{- define "diminuendo.hasGpus" -}}
{{- range .Values.ray.workerGroups }}{{ if eq .kind "gpu" }}true{{ end }}{{ end -}}
{{- end -}}

{{/* One egress rule: `to` peers, anywhere where there are none, on `ports` of TCP, and of UDP with `udp`. */}}
{{- define "diminuendo.egress" -}}
- ports:
  {{- range .ports }}
    - {port: {{ int . }}, protocol: TCP}
    {{- if $.udp }}
    - {port: {{ int . }}, protocol: UDP}
    {{- end }}
  {{- end }}
  {{- with .to }}
  to: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
