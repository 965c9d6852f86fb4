{{/* Labels of every object: (dict "root" $ "component" "controller") */}}
{{- define "kubebee.labels" -}}
{{ include "kubebee.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: kubebee
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{/* What selects the pods of a component; never changes between versions. */}}
{{- define "kubebee.selector" -}}
app.kubernetes.io/name: kubebee
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* An image's whole name: (dict "root" $ "image" .Values.loader.image) */}}
{{- define "kubebee.image" -}}
{{- $values := .root.Values.image -}}
{{- with $values.registry }}{{ . | trimSuffix "/" }}/{{ end -}}
{{- .image.repository -}}
{{- if .image.digest }}@{{ .image.digest }}{{ else }}:{{ $values.tag | default .root.Chart.AppVersion }}{{ end -}}
{{- end }}

{{/* Where the API server is, for clients that read the environment of pods. */}}
{{- define "kubebee.apiServer" -}}
{{- with .Values.kubebee.k8sServiceHost }}
- name: KUBERNETES_SERVICE_HOST
  value: {{ . | quote }}
- name: KUBERNETES_SERVICE_PORT
  value: {{ $.Values.kubebee.k8sServicePort | quote }}
{{- end }}
{{- end }}

{{/* Security context of containers that need nothing. */}}
{{- define "kubebee.unprivileged" -}}
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
privileged: false
readOnlyRootFilesystem: true
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}
