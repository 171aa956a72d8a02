{{/*
Everything the operator may do in a namespace that it serves: the one list, for the Roles and for the ClusterRole.
Neither wildcards nor pods/exec; Secrets can be read by name and cannot be listed.
*/}}
{{- define "mitosis.rules" -}}
# The migrations themselves. Patch, for the finalizer.
- apiGroups: [pgmitosis.dev]
  resources: [clustermigrations]
  verbs: [get, list, watch, patch]
# Intents are recorded here before they are acted upon; update fails on a stale resourceVersion.
- apiGroups: [pgmitosis.dev]
  resources: [clustermigrations/status]
  verbs: [update]
# Credentials and certificates that a migration names.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get]
# Configuration of members, and the routing to HAProxy, which is watched here and by the agents.
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, list, watch, create, patch]
# Members of the target: addresses and data.
- apiGroups: [""]
  resources: [services, persistentvolumeclaims]
  verbs: [list, create, patch]
# Identity of the agent beside HAProxy.
- apiGroups: [""]
  resources: [serviceaccounts]
  verbs: [get, create, patch]
# Members and HAProxy pods are observed; patch labels the observed role.
- apiGroups: [""]
  resources: [pods]
  verbs: [list, patch]
{{- if .Values.sourceStop.pods }}
# spec.source.stop.method Kubernetes: the old primary's pod is deleted.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, delete]
{{- end }}
{{- if .Values.sourceStop.jobs }}
# spec.source.stop.method Job: a Job is made from the template of a CronJob.
- apiGroups: [batch]
  resources: [cronjobs]
  verbs: [get]
{{- end }}
# One StatefulSet per member of the target; managed HAProxy.
- apiGroups: [apps]
  resources: [statefulsets, deployments]
  verbs: [list, create, patch]
# One clone per member of the target, and the probe of its image.
- apiGroups: [batch]
  resources: [jobs]
  verbs: [list, create, patch]
# What the agent beside HAProxy may do: get, list and watch its ConfigMap.
- apiGroups: [rbac.authorization.k8s.io]
  resources: [roles, rolebindings]
  verbs: [get, create, patch]
# Managed HAProxy survives a drain.
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, create, patch]
# Every transition is an Event; patch counts repetitions.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}
