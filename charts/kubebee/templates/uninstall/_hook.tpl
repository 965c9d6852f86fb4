{{/* Annotations of what exists only while the release is being uninstalled; the argument is its place in line. */}}
{{- define "kubebee.uninstallHook" -}}
helm.sh/hook: pre-delete
helm.sh/hook-weight: {{ . | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end }}
