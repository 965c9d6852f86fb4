{{/* Annotations of what exists only for `helm test`; the argument is its place in line. */}}
{{- define "kubebee.testHook" -}}
helm.sh/hook: test
helm.sh/hook-weight: {{ . | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end }}
