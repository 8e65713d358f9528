{{/* Volumes of a Ray pod. KubeRay adds /dev/shm, and /tmp/ray where the autoscaler runs. */}}
{{- define "diminuendo.rayVolumes" -}}
- name: tmp
  emptyDir: {sizeLimit: {{ .scratchSize }}}
{{- with include "diminuendo.artifactsVolume" .root }}{{ . | nindent 0 }}{{ end }}
{{- end -}}

{{- define "diminuendo.rayMounts" -}}
- {name: tmp, mountPath: /tmp}
{{- if eq .Values.artifacts.kind "volume" }}
- {name: artifacts, mountPath: /artifacts}
{{- end }}
{{- end -}}

{{/* The RayCluster: an object of this chart, or what the conductor's own are like, which then names them. */}}
{{- define "diminuendo.rayCluster" -}}
apiVersion: ray.io/v1
kind: RayCluster
metadata:
  {{- if eq .Values.ray.mode "rendered" }}
  name: {{ include "diminuendo.fullname" . }}
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "diminuendo.labels" (dict "root" . "component" "ray") | nindent 4 }}
    {{- with .Values.ray.labels }}{{ toYaml . | nindent 4 }}{{ end }}
  {{- else }}
  labels:
    app.kubernetes.io/part-of: diminuendo
    {{- with .Values.ray.labels }}{{ toYaml . | nindent 4 }}{{ end }}
  {{- end }}
  {{- with .Values.ray.annotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- include "diminuendo.rayClusterSpec" . | nindent 2 }}
{{- end -}}

{{/* A RayCluster's spec: one head without evaluators, and the groups of workers. */}}
{{- define "diminuendo.rayClusterSpec" -}}
{{- $ray := .Values.ray -}}
{{- $image := include "diminuendo.image" (dict "root" . "image" .Values.image.engine) -}}
{{- /* An upgrade leaves the workers that the autoscaler has added. */ -}}
{{- $running := dict -}}
{{- if eq $ray.mode "rendered" -}}
{{- range dig "spec" "workerGroupSpecs" (list) (lookup "ray.io/v1" "RayCluster" .Release.Namespace (include "diminuendo.fullname" .)) -}}
{{- $running = set $running .groupName (.replicas | default 0) -}}
{{- end -}}
{{- end -}}
rayVersion: {{ $ray.version | quote }}
# A changed template, e.g. another image, replaces the pods: jobs go on from their last committed step.
upgradeStrategy: {type: Recreate}
{{- if eq $ray.mode "rendered" }}
enableInTreeAutoscaling: {{ $ray.autoscaling.enabled }}
{{- if $ray.autoscaling.enabled }}
autoscalerOptions:
  # After the coordinator has let its evaluator go, for want of work.
  idleTimeoutSeconds: 60
  upscalingMode: Default
  imagePullPolicy: {{ .Values.image.engine.pullPolicy }}
  securityContext: {{- include "diminuendo.containerSecurity" . | nindent 4 }}
  env: {{- include "diminuendo.rayEnv" . | nindent 4 }}
  resources:
    requests: {cpu: 200m, memory: 512Mi}
    limits: {memory: 1Gi}
  volumeMounts:
    - {name: tmp, mountPath: /tmp}
{{- end }}
{{- end }}
headGroupSpec:
  rayStartParams:
    dashboard-host: 0.0.0.0
    num-cpus: "0"
    object-store-memory: "268435456"
  template:
    metadata:
      labels: {{- include "diminuendo.rayLabels" (dict "root" . "component" "ray-head") | nindent 8 }}
    spec:
      {{- with include "diminuendo.pullSecrets" . }}{{ . | nindent 6 }}{{ end }}
      {{- if not (and (eq $ray.mode "rendered") $ray.autoscaling.enabled) }}
      automountServiceAccountToken: false
      {{- end }}
      enableServiceLinks: false
      terminationGracePeriodSeconds: 45
      securityContext: {{- include "diminuendo.podSecurity" . | nindent 8 }}
      containers:
        - name: ray-head
          image: {{ $image }}
          imagePullPolicy: {{ .Values.image.engine.pullPolicy }}
          securityContext: {{- include "diminuendo.containerSecurity" . | nindent 12 }}
          env:
            {{- include "diminuendo.rayEnv" . | nindent 12 }}
            {{- include "diminuendo.configEnv" . | nindent 12 }}
            {{- with include "diminuendo.s3Env" . }}{{ . | nindent 12 }}{{ end }}
          ports:
            - {name: gcs-server, containerPort: 6379}
            - {name: dashboard, containerPort: 8265}
            - {name: client, containerPort: 10001}
            - {name: metrics, containerPort: 8080}
          # Of our own: KubeRay's call wget, which the image does not have. Both pages ask for no token.
          livenessProbe:
            httpGet: {path: /api/gcs_healthz, port: 8265}
            initialDelaySeconds: 30
            periodSeconds: 5
            timeoutSeconds: 5
            failureThreshold: 24
          readinessProbe:
            httpGet: {path: /api/gcs_healthz, port: 8265}
            initialDelaySeconds: 2
            periodSeconds: 2
            timeoutSeconds: 5
            failureThreshold: 10
          resources: {{- toYaml $ray.head.resources | nindent 12 }}
          volumeMounts:
            {{- include "diminuendo.rayMounts" . | nindent 12 }}
            {{- include "diminuendo.coordinatorMounts" . | nindent 12 }}
      volumes:
        {{- include "diminuendo.rayVolumes" (dict "root" . "scratchSize" $ray.head.scratchSize) | nindent 8 }}
        {{- include "diminuendo.coordinatorVolumes" . | nindent 8 }}
      {{- with $ray.head.nodeSelector }}
      nodeSelector: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $ray.head.tolerations }}
      tolerations: {{- toYaml . | nindent 8 }}
      {{- end }}
workerGroupSpecs:
{{- range $group := $ray.workerGroups }}
{{- $fixed := and (eq $ray.mode "rendered") (not $ray.autoscaling.enabled) }}
{{- $least := ternary $group.maxReplicas (default 0 $group.minReplicas) $fixed | int }}
  - groupName: {{ $group.name }}
    replicas: {{ max $least (min (get $running $group.name | int) (int $group.maxReplicas)) }}
    minReplicas: {{ $least }}
    maxReplicas: {{ int $group.maxReplicas }}
    rayStartParams:
      object-store-memory: "268435456"
    template:
      metadata:
        labels: {{- include "diminuendo.rayLabels" (dict "root" $ "component" "ray-worker") | nindent 10 }}
      spec:
        {{- with include "diminuendo.pullSecrets" $ }}{{ . | nindent 8 }}{{ end }}
        {{- with $ray.workerServiceAccountName }}
        serviceAccountName: {{ . }}
        {{- end }}
        automountServiceAccountToken: false
        enableServiceLinks: false
        terminationGracePeriodSeconds: 30
        {{- with $group.runtimeClassName }}
        runtimeClassName: {{ . }}
        {{- end }}
        {{- with $group.priorityClassName }}
        priorityClassName: {{ . }}
        {{- end }}
        securityContext: {{- include "diminuendo.podSecurity" $ | nindent 10 }}
        containers:
          - name: ray-worker
            image: {{ $image }}
            imagePullPolicy: {{ $.Values.image.engine.pullPolicy }}
            securityContext: {{- include "diminuendo.containerSecurity" $ | nindent 14 }}
            env:
              {{- include "diminuendo.rayEnv" $ | nindent 14 }}
              {{- with include "diminuendo.s3Env" $ }}{{ . | nindent 14 }}{{ end }}
            ports:
              - {name: metrics, containerPort: 8080}
            livenessProbe:
              httpGet: {path: /api/local_raylet_healthz, port: 52365}
              initialDelaySeconds: 30
              periodSeconds: 5
              timeoutSeconds: 5
              failureThreshold: 24
            readinessProbe:
              httpGet: {path: /api/local_raylet_healthz, port: 52365}
              initialDelaySeconds: 5
              periodSeconds: 2
              timeoutSeconds: 5
              failureThreshold: 10
            resources: {{- include "diminuendo.groupResources" $group | nindent 14 }}
            volumeMounts:
              {{- include "diminuendo.rayMounts" $ | nindent 14 }}
        volumes:
          {{- include "diminuendo.rayVolumes" (dict "root" $ "scratchSize" ($group.scratchSize | default "20Gi")) | nindent 10 }}
        {{- with $group.nodeSelector }}
        nodeSelector: {{- toYaml . | nindent 10 }}
        {{- end }}
        {{- with $group.tolerations }}
        tolerations: {{- toYaml . | nindent 10 }}
        {{- end }}
        {{- with $group.affinity }}
        affinity: {{- toYaml . | nindent 10 }}
        {{- end }}
{{- end }}
{{- end -}}

{{/* A group's resources, with its GPUs: Ray counts what the limits say. */}}
{{- define "diminuendo.groupResources" -}}
{{- $limits := .resources.limits -}}
{{- if eq .kind "gpu" -}}
{{- $limits = merge (dict (.gpuResource | default "nvidia.com/gpu") (int .gpus)) $limits -}}
{{- end -}}
{{- toYaml (merge (dict "limits" $limits) .resources) -}}
{{- end -}}
