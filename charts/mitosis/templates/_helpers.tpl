{{- define "mitosis.name" -}}
{{- .Chart.Name -}}
{{- end -}}

{{/* 54 characters leave room for "-metrics" in the 63 of a Service. */}}
{{- define "mitosis.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 54 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 54 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "mitosis.selectorLabels" -}}
app.kubernetes.io/name: {{ include "mitosis.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "mitosis.labels" -}}
{{ include "mitosis.selectorLabels" . }}
app.kubernetes.io/part-of: mitosis
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end -}}

{{- define "mitosis.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "mitosis.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{/* Whom the bindings are for. */}}
{{- define "mitosis.subjects" -}}
- kind: ServiceAccount
  name: {{ include "mitosis.serviceAccountName" . }}
  namespace: {{ .Release.Namespace }}
{{- end -}}

{{- define "mitosis.image" -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}

{{/* The Lease for leader election. One name for all releases: two operators in one namespace never work at once. */}}
{{- define "mitosis.lease" -}}
mitosis
{{- end -}}

{{/* Served namespaces, comma-separated; empty when all are. */}}
{{- define "mitosis.watchNamespaces" -}}
{{- if .Values.watch.clusterWide -}}
{{- if .Values.watch.namespaces -}}
{{- fail "watch.clusterWide serves every namespace: leave watch.namespaces empty, or set watch.clusterWide to false" -}}
{{- end -}}
{{- else -}}
{{- .Values.watch.namespaces | default (list .Release.Namespace) | uniq | join "," -}}
{{- end -}}
{{- end -}}
