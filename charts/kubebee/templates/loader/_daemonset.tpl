{{/*
The loaders' DaemonSet. It is not applied by Helm but by the controller, which knows which nodes need a loader
and adds the node affinity for them.
*/}}
{{- define "kubebee.daemonset" -}}
{{- $loader := .Values.loader }}
{{- $part := dict "root" $ "component" "loader" }}
{{- if and $loader.enableStats (not $loader.capabilities.sysAdmin) }}
{{- fail "loader.enableStats needs SYS_ADMIN: set loader.capabilities.sysAdmin too" }}
{{- end -}}
apiVersion: apps/v1
kind: DaemonSet
metadata:
  name: kubebee-loader
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "kubebee.selector" $part | nindent 4 }}
    app.kubernetes.io/managed-by: kubebee-controller
spec:
  selector:
    matchLabels:
      {{- include "kubebee.selector" $part | nindent 6 }}
  updateStrategy:
    type: RollingUpdate
    rollingUpdate:
      maxUnavailable: {{ $loader.maxUnavailable }}
  template:
    metadata:
      labels:
        {{- include "kubebee.selector" $part | nindent 8 }}
        {{- with $loader.podLabels }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- with $loader.podAnnotations }}
      annotations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
    spec:
      serviceAccountName: kubebee-loader
      priorityClassName: {{ $loader.priorityClassName }}
      # The interfaces are the node's.
      hostNetwork: true
      dnsPolicy: Default
      # What runs in the kernel stays: there is nothing to wait for.
      terminationGracePeriodSeconds: 5
      {{- with .Values.image.pullSecrets }}
      imagePullSecrets:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $loader.nodeSelector }}
      nodeSelector:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $loader.tolerations }}
      tolerations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $loader.affinity }}
      affinity:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      containers:
        - name: loader
          image: {{ include "kubebee.image" (dict "root" $ "image" $loader.image) | quote }}
          imagePullPolicy: {{ .Values.image.pullPolicy }}
          # `kubectl describe pod` says why it ended.
          terminationMessagePolicy: FallbackToLogsOnError
          args:
            - agent
            - --node=$(KUBEBEE_NODE)
            - --namespace={{ .Release.Namespace }}
            - --bpffs={{ $loader.bpffs }}
            {{- with $loader.cgroup }}
            - --cgroup={{ . }}
            {{- end }}
            - --tc-mode={{ $loader.tcMode }}
            - --host-root=/host
            - --cache={{ $loader.cache }}
            - --metrics-port={{ $loader.metricsPort }}
            {{- with $loader.metricsAddress }}
            - --metrics-address={{ . }}
            {{- end }}
            {{- if $loader.enableStats }}
            - --enable-stats
            {{- end }}
            {{- if $loader.verbose }}
            - --verbose
            {{- end }}
          env:
            - name: KUBEBEE_NODE
              valueFrom:
                fieldRef:
                  fieldPath: spec.nodeName
            {{- with include "kubebee.apiServer" $ | trim }}
            {{- . | nindent 12 }}
            {{- end }}
          ports:
            - name: metrics
              containerPort: {{ $loader.metricsPort }}
              hostPort: {{ $loader.metricsPort }}
          # Readiness is asked at once when it has started, which takes a second.
          startupProbe:
            httpGet: {path: /healthz, port: metrics{{ with $loader.metricsAddress }}, host: {{ . | quote }}{{ end }}}
            periodSeconds: 1
            failureThreshold: 60
          # Alive as long as it answers at all: being away from the API server is no reason to restart.
          livenessProbe:
            httpGet: {path: /healthz, port: metrics{{ with $loader.metricsAddress }}, host: {{ . | quote }}{{ end }}}
            periodSeconds: 10
            timeoutSeconds: 5
            failureThreshold: 6
          readinessProbe:
            httpGet: {path: /readyz, port: metrics{{ with $loader.metricsAddress }}, host: {{ . | quote }}{{ end }}}
            periodSeconds: 3
            timeoutSeconds: 5
          resources:
            {{- toYaml $loader.resources | nindent 12 }}
          securityContext:
            allowPrivilegeEscalation: false
            {{- with $loader.appArmorProfile }}
            appArmorProfile:
              {{- toYaml . | nindent 14 }}
            {{- end }}
            capabilities:
              drop: [ALL]
              add:
                # Load programs, make maps, attach links.
                - BPF
                # Pointers and tracing programs; kprobes and tracepoints are perf events.
                - PERFMON
                # XDP, TC and cgroup programs are network configuration.
                - NET_ADMIN
                {{- if $loader.capabilities.sysAdmin }}
                # Asked for by loader.capabilities.sysAdmin.
                - SYS_ADMIN
                {{- end }}
                {{- range $loader.capabilities.extra }}
                - {{ . }}
                {{- end }}
            privileged: false
            readOnlyRootFilesystem: true
            # Pins and cgroups belong to root; uid 0 has no power of its own without capabilities.
            runAsUser: 0
            runAsGroup: 0
            {{- with $loader.seLinuxOptions }}
            seLinuxOptions:
              {{- toYaml . | nindent 14 }}
            {{- end }}
            {{- with $loader.seccompProfile }}
            seccompProfile:
              {{- toYaml . | nindent 14 }}
            {{- end }}
          volumeMounts:
            - name: bpffs
              mountPath: {{ $loader.bpffs }}
              # A BPF file system that is mounted later is seen too.
              mountPropagation: HostToContainer
            - name: cgroup
              mountPath: /sys/fs/cgroup
              mountPropagation: HostToContainer
              readOnly: true
            {{- with $loader.tracefs }}
            - name: tracefs
              mountPath: /sys/kernel/tracing
              mountPropagation: HostToContainer
              readOnly: true
            {{- end }}
            {{- if $loader.capabilities.sysAdmin }}
            - name: netns
              mountPath: /run/netns
              # Network namespaces of pods that start later are seen too.
              mountPropagation: HostToContainer
              readOnly: true
            {{- end }}
            - name: cache
              mountPath: {{ $loader.cache }}
            - name: tmp
              mountPath: /tmp
            {{- range $index, $path := $loader.hostPaths }}
            - name: host-{{ $index }}
              mountPath: {{ printf "/host%s" $path }}
              readOnly: true
              recursiveReadOnly: IfPossible
            {{- end }}
            {{- if $loader.kernelHeaders }}
            - name: modules
              mountPath: /lib/modules
              readOnly: true
            - name: sources
              mountPath: /usr/src
              readOnly: true
            {{- end }}
      volumes:
        - name: bpffs
          hostPath:
            path: {{ $loader.bpffs }}
            type: Directory
        - name: cgroup
          hostPath:
            path: /sys/fs/cgroup
            type: Directory
        {{- with $loader.tracefs }}
        - name: tracefs
          hostPath:
            path: {{ . }}
            type: Directory
        {{- end }}
        {{- if $loader.capabilities.sysAdmin }}
        - name: netns
          hostPath:
            path: /run/netns
            type: DirectoryOrCreate
        {{- end }}
        - name: cache
          hostPath:
            path: {{ $loader.cache }}
            type: DirectoryOrCreate
        - name: tmp
          emptyDir:
            medium: Memory
            sizeLimit: 128Mi
        {{- range $index, $path := $loader.hostPaths }}
        - name: host-{{ $index }}
          hostPath:
            path: {{ $path }}
            type: Directory
        {{- end }}
        {{- if $loader.kernelHeaders }}
        - name: modules
          hostPath:
            path: /lib/modules
            type: Directory
        - name: sources
          hostPath:
            path: /usr/src
            type: Directory
        {{- end }}
{{- end }}
